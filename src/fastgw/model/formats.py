"""The named formats of string fields: each takes a value and returns what is wrong with it, or None.

Messages are Kong's (its `typedefs`); so are the oddities, for instance that `host` tells a value with a bad
port that it "must not have a port". Values are valid UTF-8 here: `validate` has refused all others.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from fastgw._uri import normalise
from fastgw.model import pem
from fastgw.model.expressions import ExpressionError, parse_expression

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_UTF8_NAME = re.compile(r"[A-Za-z0-9._~\-\u0080-\U0010FFFF]+")
_HOSTNAME = re.compile(r"[0-9A-Za-z._-]+")
_IPV4 = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})(?::([0-9]+))?")
_IPV6_IN_BRACKETS = re.compile(r"\[([^\]]*)\](?::([0-9]+))?")
_PORT_AT_END = re.compile(r":([0-9]+)\Z")
_PATH = re.compile(r"/[A-Za-z0-9.\-_~/%:@!$&'()*+,;=]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_TAG = re.compile(r"[ -+\-.0-~\u0080-\U0010FFFF]+")
_COOKIE_NAME = re.compile(r"[^\x00-\x20\x7f()<>@,;:\\\"/?={}\[\]]+")
_DEFAULT_TARGET_PORT: Final = 8000
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+")


def is_uuid(text: str) -> bool:
    """Tell whether *text* has the shape of a UUID, of any version and letter case."""
    return _UUID.fullmatch(text) is not None


class _Host(NamedTuple):
    """A host taken apart; `error` is Kong's message and the other two are void with it."""

    kind: Literal["name", "ipv4", "ipv6"]
    port: int | None
    error: str | None


def _parse_host(value: str) -> _Host:
    colons = value.count(":")
    if colons > 1:
        return _parse_ipv6(value)
    if re.fullmatch(r"[0-9.]+", value.replace(":", "")):
        return _parse_ipv4(value)
    return _parse_hostname(value)


def _port(digits: str | None) -> tuple[int | None, str | None]:
    if digits is None:
        return None, None
    if len(digits.lstrip("0")) > 5 or int(digits) > 65535:
        return None, "invalid port number"
    return int(digits), None


def _parse_ipv4(value: str) -> _Host:
    match = _IPV4.fullmatch(value)
    if match is None or any(int(match[i]) > 255 for i in range(1, 5)):
        return _Host("ipv4", None, f"invalid ipv4 address: {value}")
    port, error = _port(match[5])
    return _Host("ipv4", port, error)


def _parse_ipv6(value: str) -> _Host:
    match = _IPV6_IN_BRACKETS.fullmatch(value)
    address, digits = (match[1], match[2]) if match else (value, None)
    if not _is_ip(address, version=6):
        return _Host("ipv6", None, f"invalid ipv6 address: {value}")
    port, error = _port(digits)
    return _Host("ipv6", port, error)


def _parse_hostname(value: str) -> _Host:
    match = _PORT_AT_END.search(value)
    port, error = _port(match[1] if match else None)
    name = value[: match.start()] if match else value
    if error is None and not _has_good_labels(name):
        error = f"invalid hostname: {value}"
    return _Host("name", port, error)


def _has_good_labels(name: str) -> bool:
    """Tell whether no label is empty, but for a trailing one, nor ends in a dash."""
    if not _HOSTNAME.fullmatch(name):
        return False
    labels = name.split(".")
    return all(labels[:-1]) and not any(label.endswith("-") for label in labels)


def _is_ip(text: str, version: int | None = None) -> bool:
    try:
        # A zone ("fe80::1%eth0") names an interface of one machine: no gateway elsewhere could use it.
        return "%" not in text and ipaddress.ip_address(text).version == (version or 4 + 2 * (":" in text))
    except ValueError:
        return False


def _utf8_name(value: str) -> str | None:
    if _UTF8_NAME.fullmatch(value):
        return None
    return f"invalid value '{value}': the only accepted ascii characters are alphanumerics or ., -, _, and ~"


def _host(value: str) -> str | None:
    host = _parse_host(value)
    if host.port is not None or host.error == "invalid port number":
        return "must not have a port"
    return f"invalid value: {value}" if host.error else None


def _host_with_optional_port(value: str) -> str | None:
    return _parse_host(value).error


def _route_host(value: str) -> str | None:
    # The place of the wildcard is a rule of the field; here any word may stand for it.
    error = _parse_host(value.replace("*", "abc")).error
    return f"invalid hostname: {value}" if error is not None and error != "invalid port number" else error


def _sni(value: str) -> str | None:
    host = _parse_host(value)
    if host.port is not None or host.error == "invalid port number":
        return "must not have a port"
    if host.error and host.kind == "name":
        return f"invalid value: {value}"
    return "must not be an IP" if host.kind != "name" else None


def _wildcard_host(value: str) -> str | None:
    if "*" in value:
        if value.index("*") not in (0, len(value) - 1):
            return "wildcard must be leftmost or rightmost character"
        if value.count("*") > 1:
            return "only one wildcard must be specified"
        if _sni(value.replace("*", "wildcard")) == f"invalid value: {value.replace('*', 'wildcard')}":
            return f"invalid value: {value}"
    return _sni(value.replace("*", "wildcard"))


def _bad_escape(value: str) -> str | None:
    match = _BAD_ESCAPE.search(value)
    return f"invalid url-encoded value: '{match[0]}'" if match else None


def _path(value: str) -> str | None:
    if not _PATH.fullmatch(value):
        return f"invalid path: '{value}' (characters outside of the reserved list of RFC 3986 found)"
    return _bad_escape(value)


def _route_path(value: str) -> str | None:
    error = _bad_escape(value)
    if error is not None or value.startswith("~"):
        return error
    normal = normalise(value.encode())
    if normal == value.encode():
        return None
    return f"non-normalized path, consider use '{normal.decode(errors='replace')}' instead"


def _tag(value: str) -> str | None:
    if _TAG.fullmatch(value):
        return None
    return f"invalid tag '{value}': expected printable ascii (except `,` and `/`) or valid utf-8 sequences"


def _header_name(value: str) -> str | None:
    if _HEADER_NAME.fullmatch(value):
        return None
    return f"bad header name '{value}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"


def _pair(value: str) -> str | None:
    """A name and a value, as in `name:value`."""
    name, _, rest = value.partition(":")
    if name == "" or rest.lstrip(":") == "":
        return f"key '{name}' has no value"
    return None


def _pair_of_header(value: str) -> str | None:
    """The name of a header, and whatever behind a colon."""
    name = value.partition(":")[0]
    return None if _HEADER_NAME.fullmatch(name) else f"'{name}' is not a valid header"


def _pair_of_headers(value: str) -> str | None:
    """The names of two headers, as in `old:new`."""
    name, _, other = value.partition(":")
    for each in (name, other.lstrip(":")):
        if not _HEADER_NAME.fullmatch(each):
            return f"'{each}' is not a valid header"
    return None


def _expression(value: str) -> str | None:
    try:
        parse_expression(value)
    except ExpressionError as error:
        return f"Router Expression failed validation: {error}"
    return None


def _ip_or_cidr(value: str) -> str | None:
    address, slash, prefix = value.partition("/")
    if _is_ip(address) and (not slash or _is_prefix_length(prefix, 128 if ":" in address else 32)):
        return None
    return f"invalid ip or cidr range: '{value}'"


def _is_prefix_length(text: str, most: int) -> bool:
    return re.fullmatch(r"[0-9]{1,3}", text) is not None and int(text) <= most


def _upstream_name(value: str) -> str | None:
    host = _parse_host(value)
    if host.port is not None or host.error == "invalid port number":
        return f"Invalid name ('{value}'); no port allowed"
    if host.kind != "name":
        return f"Invalid name ('{value}'); no ip addresses allowed"
    return f"Invalid name ('{value}'); must be a valid hostname" if host.error else None


def normal_target(value: str) -> str | None:
    """Write a target's address as it is stored: with its port, IPv6 in full and in brackets.

    Returns:
        None for what is no address.
    """
    host = _parse_host(value)
    if host.error:
        return None
    port = _DEFAULT_TARGET_PORT if host.port is None else host.port
    if host.kind == "ipv6":
        address = value.partition("]")[0].removeprefix("[")
        return f"[{ipaddress.IPv6Address(address).exploded}]:{port}"
    name = value.rpartition(":")[0] if host.port is not None else value
    return f"{name}:{port}"


def _target_address(value: str) -> str | None:
    if normal_target(value) is not None:
        return None
    return f"Invalid target ('{value}'); not a valid hostname or ip address"


def _cookie_name(value: str) -> str | None:
    if _COOKIE_NAME.fullmatch(value):
        return None
    return (
        "contains one or more invalid characters. ASCII control characters (0-31;127), space, tab and the "
        'characters ()<>@,;:\\"/?={}[] are not allowed.'
    )


def _url(value: str) -> str | None:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return f"missing host in url: '{value}'"
    if not parts.scheme or not parts.hostname:
        return "missing host in url"
    return None


def _lua_regex(value: str) -> str | None:
    """Whether a regular expression compiles; Kong's are PCRE, whose common part is Python's."""
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError):
        return f"not a valid regex: {value}"
    return None


FORMATS: Final[Mapping[str, Callable[[str], str | None]]] = {
    "utf8_name": _utf8_name,
    "host": _host,
    "host_with_optional_port": _host_with_optional_port,
    "route_host": _route_host,
    "wildcard_host": _wildcard_host,
    "path": _path,
    "route_path": _route_path,
    "tag": _tag,
    "header_name": _header_name,
    "pair": _pair,
    "pair_of_header": _pair_of_header,
    "pair_of_headers": _pair_of_headers,
    "ip_or_cidr": _ip_or_cidr,
    "expression": _expression,
    "sni": _sni,
    "upstream_name": _upstream_name,
    "target_address": _target_address,
    "cookie_name": _cookie_name,
    "url": _url,
    "regex": _lua_regex,
    "pem_certificate": pem.certificate_fault,
    "pem_key": pem.key_fault,
}
