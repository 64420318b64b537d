"""Parsers of property values: text in, value out, ValueError with the rest of the sentence when wrong.

Sizes and times are written as nginx writes them (`10m`, `1h30m`), since Kong's users do.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOG_LEVELS: Final = ("debug", "info", "notice", "warn", "error", "crit", "alert", "emerg")

_SIZE = re.compile(r"(\d{1,15})([kmg]?)", re.IGNORECASE)
_TIME = re.compile(r"(\d{1,10})(ms|s|m|h|d|)")
_TIME_UNITS_S: Final = {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600, "d": 86400}
_HOSTS_LIMIT: Final = 16
_LABEL_KEY = re.compile(r"[a-z0-9](?:[\w.:-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)
_RESERVED_LABELS: Final = ("kong", "konnect", "insomnia", "mesh", "kic")

_LATENCIES: Final = (
    "x-kong-proxy-latency",
    "x-kong-response-latency",
    "x-kong-admin-latency",
    "x-kong-upstream-latency",
)
_HEADER_GROUPS: Final = {"server_tokens": ("server", "via"), "latency_tokens": _LATENCIES}
_HEADERS: Final = ("server", "via", *_LATENCIES, "x-kong-upstream-status", "x-kong-request-id")


def text(value: str) -> str:
    return value


def boolean(value: str) -> bool:
    lowered = value.lower()
    if lowered in ("on", "true"):
        return True
    if lowered in ("off", "false"):
        return False
    raise ValueError(f"{value!r} is neither 'on' nor 'off'")


def plugins(value: str) -> frozenset[str]:
    """Names separated by commas; `bundled` stands among them for all that come with the program."""
    if value.lower() == "off":
        return frozenset()
    names = frozenset(name.strip() for name in value.split(","))
    for name in sorted(names):
        if not re.fullmatch(r"[A-Za-z0-9-]+", name):
            raise ValueError(f"{name!r} is no name of a plugin")
    return names


def integer(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of whole numbers from *low* to *high*."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", value) or not low <= int(value) <= high:
            raise ValueError(f"{value!r} is not a whole number from {low} to {high}")
        return int(value)

    return parse


def one_of(*choices: str) -> Callable[[str], str]:
    """Make a parser that takes one of *choices*, in any case."""

    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return value.lower()

    return parse


def size_bytes(value: str) -> int:
    """Read bytes as nginx writes them: `8192`, `8k`, `10m`, `1g`."""
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is not a size such as 8192, 8k or 10m")
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]


def lifetime(value: str) -> float:
    found = seconds(value)
    if found < 1:
        raise ValueError("a lifetime is at least 1 s")
    return found


def seconds(value: str) -> float:
    """Read seconds as nginx writes times: `60`, `75s`, `1h30m`, `500ms`."""
    first = value.split()[0]  # nginx: "keepalive_timeout 75s 60s", the second is only announced
    total_s, at = 0.0, 0
    while at < len(first):
        match = _TIME.match(first, at)
        if match is None:
            raise ValueError(f"{value!r} is not a time such as 60, 75s or 1h30m")
        total_s += int(match[1]) * _TIME_UNITS_S[match[2]]
        at = match.end()
    return total_s


def path(value: str) -> Path:
    """Read a path, relative to the working directory, `~` expanded."""
    return Path(os.path.abspath(Path(value).expanduser()))


def path_in_prefix(value: str) -> Path:
    """Read a path that stays relative here: the loader resolves it against the prefix."""
    return Path(value).expanduser()


def log_file(value: str) -> str:
    """Read where a log goes; nginx's format name after the path is left to the loader."""
    if value.startswith(("syslog:", "memory:")):
        raise ValueError(f"{value!r}: only a file, /dev/stdout or /dev/stderr is served")
    return value.split()[0]


def access_log(value: str) -> str:
    destination = log_file(value)
    return "off" if destination.lower() == "off" else destination


def proxy_access_log(value: str) -> str:
    """Read `path`, or `path json`: as nginx has it, the name of a format stands behind the path."""
    destination = access_log(value)
    return f"{destination} json" if value.split()[1:] == ["json"] and destination != "off" else destination


def error_log(value: str) -> str:
    destination = log_file(value)
    if destination.lower() == "off":
        raise ValueError("an error log cannot be off: raise log_level, or send it to /dev/null")
    return destination


def kong_version(value: str) -> str:
    """Read a release of Kong that speaks the protocol that we speak with its control planes."""
    found = re.fullmatch(r"(\d)\.(\d)\.\d{1,2}", value)
    if found is None or (found[1], found[2]) != ("2", "8") and found[1] != "3":
        raise ValueError(f"{value!r} is neither 2.8.x nor 3.0.x to 3.9.x")
    return value


def host_port(value: str) -> str:
    """Read `host:port`, an IPv6 address in brackets; kept as text, resolved afresh at each dial."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"{value!r} is not 'host:port'")
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError(f"{host} in {value!r} is not an IPv6 address") from None
    elif ":" in host or "/" in host or any(character.isspace() for character in host):
        raise ValueError(f"{value!r} is not 'host:port' (an IPv6 address stands in brackets, no scheme)")
    else:
        try:
            host.encode("idna")
        except UnicodeError:
            raise ValueError(
                f"{host!r} in {value!r} can be no name: between two dots stand 1 to 63 characters"
            ) from None
    return value


def host_ports(value: str) -> tuple[str, ...]:
    """Read comma-separated `host:port`, each once."""
    found = tuple(host_port(part.strip()) for part in value.split(","))
    twice = [one for number, one in enumerate(found) if one in found[:number]]
    if twice:
        raise ValueError(f"{twice[0]!r} stands there twice")
    if len(found) > _HOSTS_LIMIT:
        raise ValueError(f"{len(found)} addresses, at most {_HOSTS_LIMIT} are allowed")
    return found


def origins(value: str) -> tuple[str, ...]:
    """Read comma-separated origins as browsers send them: `https://admin.example.com:8443`."""
    found = tuple(part.strip() for part in value.split(",")) if value else ()
    for origin in found:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", origin):
            raise ValueError(f"{origin!r} is no origin such as https://admin.example.com")
    return found


def material(value: str) -> tuple[str, ...]:
    """Read comma-separated certificates or keys, each a path, PEM text, or base64 of PEM text."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


def names(value: str) -> frozenset[str]:
    """Read comma-separated names; case does not count."""
    return frozenset(part.strip().lower() for part in value.split(",") if part.strip())


def cipher_suite(value: str) -> str:
    suite = one_of("modern", "intermediate", "old", "fips", "custom")(value)
    if suite in ("old", "fips"):
        raise ValueError(f"the suite {suite!r} is not served: use modern, intermediate or custom")
    return suite


def tls_versions(value: str) -> tuple[str, ...]:
    """Read TLS versions as nginx names them; those before 1.2 are not served."""
    names = tuple(dict.fromkeys(value.split()))
    for name in names:
        if name not in ("TLSv1.2", "TLSv1.3"):
            raise ValueError(f"{name!r} is not one of TLSv1.2, TLSv1.3")
    return names


def networks(value: str) -> tuple[str, ...]:
    """Read comma-separated addresses, networks and `unix:`; an address is a network of one."""
    found: list[str] = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        if part == "unix:":
            found.append(part)
            continue
        try:
            found.append(str(ipaddress.ip_network(part, strict=False)))
        except ValueError:
            raise ValueError(f"{part!r} is neither an address, nor a network, nor 'unix:'") from None
    return tuple(found)


def name_servers(value: str) -> tuple[str, ...]:
    """Read comma-separated addresses, each with a port or without; IPv6 with a port in brackets."""
    found: list[str] = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        match = re.fullmatch(r"([0-9.]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?", part)
        address, port = (match[1].strip("[]"), int(match[2] or 53)) if match else (part, 53)
        try:
            parsed = ipaddress.ip_address(address)
            if not 0 < port < 65536:
                raise ValueError
        except ValueError:
            raise ValueError(f"{part!r} is no address of a name server, with or without a port") from None
        found.append(f"[{parsed}]:{port}" if parsed.version == 6 else f"{parsed}:{port}")
    return tuple(found)


def field_name(value: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", value):
        raise ValueError(f"{value!r} is no name of a header field")
    return value


def labels(value: str) -> dict[str, str]:
    """Read `key:value,…`, at most ten. Source: Kong's `cluster_dp_labels`."""
    result: dict[str, str] = {}
    for part in value.split(","):
        key, colon, content = part.strip().partition(":")
        if not colon or not _LABEL_KEY.fullmatch(key) or not _LABEL_KEY.fullmatch(content):
            raise ValueError(
                f"{part.strip()!r} is not 'key:value' with 1 to 63 letters, digits or inner _ . : - in each"
            )
        if key.lower().startswith(_RESERVED_LABELS):
            raise ValueError(f"key {key!r} begins with a reserved word ({', '.join(_RESERVED_LABELS)})")
        result[key] = content
    if len(result) > 10:
        raise ValueError(f"{len(result)} labels, at most 10 are allowed")
    return result


def header_tokens(value: str) -> frozenset[str]:
    """Read Kong's `headers`: names and groups, expanded to lower-case header names.

    As in Kong, `off` counts only as the first element and is passed over later.
    """
    tokens = [token.strip().lower() for token in value.split(",")]
    if tokens[0] == "off":
        return frozenset()
    result: set[str] = set()
    for token in tokens:
        if token in _HEADER_GROUPS:
            result.update(_HEADER_GROUPS[token])
        elif token in _HEADERS:
            result.add(token)
        elif token != "off":
            known = ", ".join((*_HEADER_GROUPS, *_HEADERS))
            raise ValueError(f"{token!r} is not one of {known}, off")
    return frozenset(result)


def upstream_header_tokens(value: str) -> frozenset[str]:
    """Read Kong's `headers_upstream`: one name, or off."""
    token = value.strip().lower()
    if token == "off":
        return frozenset()
    if token != "x-kong-request-id":
        raise ValueError(f"{token!r} is not one of X-Kong-Request-Id, off")
    return frozenset({token})


def available_cores() -> int:
    """Count the cores this process may use: its affinity, and the CPU quota of its cgroup (v2) if any."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2: the affinity stands
    return max(cores, 1)


def worker_count(value: str) -> int:
    if value.lower() == "auto":
        return available_cores()
    return integer(1, 1024)(value)


def connection_count(value: str) -> int:
    if value.lower() == "auto":
        return 16384
    return integer(8, 2**20)(value)
