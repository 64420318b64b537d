"""What Kong's schema allows and the data plane does not proxy yet: refused, never stored and ignored.

One row per such use. When the data plane learns it, its row goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from fastgw.model.entity import DEFAULT_FLAVOR
from fastgw.model.faults import Fault, Faults
from fastgw.model.regexes import regex_fault


@dataclass(frozen=True, slots=True)
class Unserved:
    """`refuse` takes a valid, non-null value of a field and returns the fault, or None when it is served."""

    field: str
    refuse: Callable[[Any], Fault | None]


def _whole(what: str) -> Callable[[Any], Fault | None]:
    """Refuse any value that asks for something; `[]`, `{}` and false ask for nothing."""
    return lambda value: f"fastgw does not serve {what} yet: leave it null" if value else None


def _unserved_protocol(protocol: str) -> str | None:
    if protocol in ("http", "https"):
        return None
    return f"fastgw does not proxy to '{protocol}' services yet: use http or https"


def _unserved_protocols(protocols: list[str]) -> Fault | None:
    faults = [
        None if protocol in ("http", "https") else f"fastgw does not serve '{protocol}' routes yet: use http"
        for protocol in protocols
    ]
    return faults if any(faults) else None


def _unserved_headers(headers: Mapping[str, list[str]], *, is_old: bool = False) -> str | None:
    """A name without values could never match; a regex must be one."""
    for name, values in headers.items():
        if not values:
            return f"header '{name}' needs at least one value"
        for value in values:
            fault = regex_fault(value[2:], is_bytes=is_old) if value.startswith("~*") else None
            if fault is not None:
                return f"invalid regex: '{value[2:]}' ({fault})"
            if len(name) + 1 + len(value.encode()) > _LONGEST_BYTES:
                return f"fastgw does not serve values longer than {_LONGEST_BYTES - len(name) - 1} bytes"
    return None


def _unserved_path(path: str, *, is_old: bool = False) -> str | None:
    fault = regex_fault(path[1:], is_bytes=is_old) if path.startswith("~") else None
    if fault is not None:
        return f"invalid regex: '{path[1:]}' ({fault})"
    return _too_long(path, _LONGEST_BYTES)


def _unserved_old_sni(sni: str) -> str | None:
    if "*" not in sni:
        return None
    return "router_flavor 'traditional' matches exact names only: name them, or choose another flavor"


def _unserved_old_expression(expression: str) -> str:
    return "router_flavor 'traditional' has no expressions: use the fields, or choose another flavor"


def _unserved_host(host: str) -> str | None:
    if host == "*." or host.startswith("*.:"):
        return "fastgw does not serve a wildcard without a name"
    return _too_long(host, _LONGEST_BYTES)


def _unserved_reference(text: str) -> str | None:
    return "fastgw does not resolve references to vaults yet" if text.startswith("{vault://") else None


def _too_long(text: str, longest_bytes: int) -> str | None:
    if len(text) <= longest_bytes // 4 or len(text.encode()) <= longest_bytes:
        return None
    return f"fastgw does not serve values longer than {longest_bytes} bytes"


def _each(refuse: Callable[[str], str | None]) -> Callable[[list[str]], Fault | None]:
    """Refuse elements of a list, each with its own fault."""

    def refuse_list(elements: list[str]) -> Fault | None:
        faults = [refuse(element) for element in elements]
        return faults if any(faults) else None

    return refuse_list


# What the route table has room for (`_router`), far beyond what any request could match.
_LONGEST_BYTES: Final = 0xFFFF
# The longest name that DNS can resolve, with its final dot; an IPv6 address is shorter.
_LONGEST_HOST_BYTES: Final = 254

#: Plugins whose behaviour a data plane of this version has. On routes with any other it answers 503.
SERVED_PLUGINS: Final[frozenset[str]] = frozenset()

UNSERVED: Final[Mapping[str, tuple[Unserved, ...]]] = {
    "services": (
        Unserved("protocol", _unserved_protocol),
        Unserved("host", lambda host: _too_long(host, _LONGEST_HOST_BYTES)),
        Unserved("path", lambda path: _too_long(path, _LONGEST_BYTES)),
    ),
    "certificates": tuple(
        Unserved(field, _unserved_reference) for field in ("cert", "key", "cert_alt", "key_alt")
    ),
    "routes": (
        Unserved("protocols", _unserved_protocols),
        Unserved("headers", _unserved_headers),
        Unserved("sources", _whole("matching by source address")),
        Unserved("destinations", _whole("matching by destination address")),
        Unserved("methods", _each(lambda method: _too_long(method, _LONGEST_BYTES))),
        Unserved("hosts", _each(_unserved_host)),
        Unserved("paths", _each(_unserved_path)),
    ),
}


#: Of routes in the `traditional` flavor.
_UNSERVED_OLD: Final = (
    Unserved("headers", lambda headers: _unserved_headers(headers, is_old=True)),
    Unserved("paths", _each(lambda path: _unserved_path(path, is_old=True))),
    Unserved("snis", _each(_unserved_old_sni)),
    Unserved("expression", _unserved_old_expression),
)


@lru_cache(maxsize=64)
def unserved_of(entity: str, flavor: str = DEFAULT_FLAVOR) -> tuple[Unserved, ...]:
    """What rows of *entity* may not ask for, under this `router_flavor`."""
    found = UNSERVED.get(entity, ())
    if entity != "routes" or flavor != "traditional":
        return found
    fields = {unserved.field for unserved in _UNSERVED_OLD}
    return (*(unserved for unserved in found if unserved.field not in fields), *_UNSERVED_OLD)


def unserved_faults(entity: str, row: Mapping[str, Any], flavor: str = DEFAULT_FLAVOR) -> Faults:
    """The faults of a valid *row* of *entity* that asks for what is not served; empty without any."""
    faults: Faults = {}
    for unserved in unserved_of(entity, flavor):
        value = row.get(unserved.field)
        fault = None if value is None else unserved.refuse(value)
        if fault is not None:
            faults[unserved.field] = trimmed(fault)
    return faults


def trimmed(fault: Fault) -> Fault:
    """*fault* without the good places at the end of a list, as Kong shows it."""
    if isinstance(fault, list):
        while fault and fault[-1] is None:
            fault.pop()
    return fault
