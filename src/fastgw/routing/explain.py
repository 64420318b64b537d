"""A request explained: which routes compete for it, what of each holds, who wins, and what goes upstream.

Used by the Admin API, on the image of what is published, and by `fastgw route`, on that of a file. The answer
is plain data, for JSON. Of large tables only the candidates whose path fits are told, and of those a few
behind the winner.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from fastgw._router import Request
from fastgw._router_explain import Considered, explain
from fastgw._uri import encode, normalise, upstream_path
from fastgw.errors import FastgwError
from fastgw.model.plugin_schemas import PLUGIN_SCHEMAS
from fastgw.model.served import SERVED_PLUGINS
from fastgw.routing.image import Protocols, RouteRecord, ServiceRecord
from fastgw.routing.layered import LayeredImage
from fastgw.routing.plugins import StepRecord

CANDIDATES_LIMIT: Final = 200
BEHIND_WINNER: Final = 20
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Source: RFC 9110 §5.6.2."""
_BREAKS: Final = re.compile(r"[\0\r\n]")
_BLANKS: Final = re.compile(r"[\0-\x20\x7f]")


class BadQuestion(FastgwError):
    """What was asked is no request; one line that says why."""

    code = "bad_question"


class Asked(NamedTuple):
    """A request as it is asked about."""

    request: Request
    scheme: str
    target: str

    @classmethod
    def parse(
        cls,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        sni: str | None = None,
        peer: str = "",
        port: int | None = None,
    ) -> Asked:
        """Make it of what a client would send.

        Args:
            url: `https://host/path?query`; a path alone is asked for over http, without a host.
            headers: a Host among them is what the router sees, whatever *url* says.
            sni: by default the name in *url*, over https.
            peer: the client's address.
            port: the listener's; by default that of *url*.
        Raises:
            BadQuestion: it is no URL, or a text is none that can be sent.
        """
        if not _TOKEN.fullmatch(method):
            raise BadQuestion(f"'{method}' is no method: a method is letters, digits and !#$%&'*+.^_`|~-")
        if _BLANKS.search(url):
            raise BadQuestion(f"{url!r} holds a space or a control character: write %20 for a space")
        try:
            parts = urlsplit(url)
            url_port = parts.port
        except ValueError as error:
            raise BadQuestion(f"'{url}' is not a URL: {error}") from None
        scheme = parts.scheme.lower() or "http"
        if scheme not in _DEFAULT_PORTS or (not parts.netloc and not url.startswith("/")):
            raise BadQuestion(f"'{url}' is neither http://host/path, nor https://host/path, nor /path")
        host = parts.netloc.rpartition("@")[2]
        others = []
        for name, value in headers:
            if not _TOKEN.fullmatch(name):
                raise BadQuestion(f"'{name}' is no name of a header field")
            if _BREAKS.search(value):
                raise BadQuestion(f"the value of the header field {name} holds a line break or a zero byte")
            if name.lower() == "host":
                host = value
            else:
                others.append((name.encode(), value.encode()))
        target = parts.path or "/"
        if sni is None:
            sni = parts.hostname or ""
        if peer:
            try:
                ip_address(peer)
            except ValueError:
                raise BadQuestion(f"client_ip: '{peer}' is no IP address") from None
        request = Request(
            method.encode(),
            host.lower().encode(),
            normalise(target.encode()),
            query=parts.query.encode(),
            headers=others,
            sni=sni.lower().encode() if scheme == "https" else b"",
            peer=peer.encode(),
            host_port=port or url_port or _DEFAULT_PORTS[scheme],
            is_https=scheme == "https",
        )
        return cls(request, scheme, target)


def explain_request(image: LayeredImage, asked: Asked) -> dict[str, Any]:
    """The whole explanation, as plain data."""
    considered = explain(image.table(), asked.request, near_only=True)
    winner = next((place for place, one in enumerate(considered) if one.matches), None)
    end = len(considered) if winner is None else winner + 1 + BEHIND_WINNER
    # The winner is told in any case: of a long list the middle is left out.
    start = max(0, min(end, len(considered)) - CANDIDATES_LIMIT)
    told = considered[start:end]
    request = asked.request
    return {
        "request": {
            "method": _text(request.method),
            "scheme": asked.scheme,
            "host": _text(request.host),
            "path": _text(request.path),
            "sni": _text(request.sni) or None,
        },
        "version": image.meta.version,
        "match": None if winner is None else _match(image, considered[winner], asked),
        "candidates": [_candidate(image, one, place == winner) for place, one in enumerate(told, start)],
        "left_out": image.table().candidates - len(told),
    }


def _candidate(image: LayeredImage, one: Considered, wins: bool) -> dict[str, Any]:
    def plain(conditions: Sequence[Any]) -> list[dict[str, Any]]:
        return [condition._asdict() | {"wanted": list(condition.wanted)} for condition in conditions]

    return {
        "route": _named(image.route(one.route)),
        "path": None if one.path is None else _text(one.path),
        "matches": one.matches,
        "wins": wins,
        "conditions": plain(one.conditions),
        "tests": plain(one.tests),
    }


def _match(image: LayeredImage, one: Considered, asked: Asked) -> dict[str, Any]:
    record = image.route(one.route)
    found = image.table().match_request(asked.request)
    assert found is not None
    assert found[0] == one.route
    matched_len = found[1]
    service = image.service(record.service) if record.service >= 0 else None
    captures = image.table().captures_of(asked.request) or {}
    return {
        "route": _named(record),
        "service": None if service is None else _named(service) | {"url": _url(service)},
        "answer": _own_answer(record, service, asked),
        "matched_path": _text(asked.request.path[:matched_len]),
        "captures": {str(name): _text(value) for name, value in captures.items()},
        "strip_path": record.strip_path,
        "preserve_host": record.preserve_host,
        "upstream_path": None if service is None else _upstream_path(record, service, asked, matched_len),
        "plugins": [_plugin(image, step) for step in _in_order(record.plugins)],
    }


def _in_order(steps: Sequence[StepRecord]) -> list[StepRecord]:
    """As they run: by priority, of equal ones the last by name."""
    by_name = sorted(steps, key=lambda step: step.name, reverse=True)
    return sorted(by_name, key=lambda step: -_priority_of(step.name))


def _priority_of(name: str) -> int:
    schema = PLUGIN_SCHEMAS.get(name)
    return 0 if schema is None else schema.priority


def _plugin(image: LayeredImage, step: StepRecord) -> dict[str, Any]:
    """One step: what serves everybody, and whom something else serves."""

    def told(number: int) -> dict[str, Any]:
        record = image.base.plugin(number)
        scopes = ("route", "service", "consumer")
        return {
            "id": record.id,
            "instance_name": record.instance_name,
            "scope": [scope for scope in scopes if getattr(record, scope) is not None] or ["global"],
        }

    nobody: dict[str, Any] = {"id": None, "instance_name": None, "scope": []}
    return {
        "name": step.name,
        "priority": _priority_of(step.name),
        "is_available": step.name in SERVED_PLUGINS,
        **(told(step.plugin) if step.plugin >= 0 else nobody),
        "consumers": {consumer: told(number) for consumer, number in sorted(step.by_consumer.items())},
    }


def _own_answer(record: RouteRecord, service: ServiceRecord | None, asked: Asked) -> str | None:
    """What the gateway answers by itself, if nothing goes upstream."""
    if record.protocols == Protocols.HTTPS and asked.scheme == "http":
        return f"{record.https_redirect_status_code}: the route is for https alone"
    absent = record.missing_plugin or next(
        (step.name for step in _in_order(record.plugins) if step.name not in SERVED_PLUGINS), None
    )
    if absent is not None:
        return f"503: plugin '{absent}' is not available on a data plane of this version"
    return "503: the route has no service" if service is None else None


def _upstream_path(record: RouteRecord, service: ServiceRecord, asked: Asked, matched_len: int) -> str:
    own = None if service.path is None else service.path.encode()
    path = upstream_path(own, asked.request.path, matched_len, record.strip_path, is_v1=record.is_v1)
    query = _text(asked.request.query)
    return _text(encode(path)) + (f"?{query}" if query else "")


def _named(record: RouteRecord | ServiceRecord) -> dict[str, Any]:
    return {"id": record.id, "name": record.name}


def _url(service: ServiceRecord) -> str:
    return f"{service.protocol}://{service.host}:{service.port}{service.path or ''}"


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def asked_of(document: Mapping[str, Any]) -> Asked:
    """The request of a JSON document with method, url, headers, sni, client_ip and port; only url must be.

    Raises:
        BadQuestion: a member is of the wrong type or missing.
    """
    unknown = sorted(document.keys() - {"method", "url", "headers", "sni", "client_ip", "port"})
    if unknown:
        raise BadQuestion(f"unknown: {', '.join(unknown)}")
    for name in ("method", "url", "sni", "client_ip"):
        if not isinstance(document.get(name, ""), str):
            raise BadQuestion(f"{name}: expected a string")
    if "url" not in document:
        raise BadQuestion("url: required")
    port = document.get("port")
    if port is not None and (type(port) is not int or not 0 < port < 65536):
        raise BadQuestion("port: expected a number from 1 to 65535")
    headers: list[tuple[str, str]] = []
    given = document.get("headers", {})
    if not isinstance(given, Mapping):
        raise BadQuestion("headers: expected a map of names to values")
    for name, values in given.items():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                raise BadQuestion(f"headers.{name}: expected a string or a list of strings")
            headers.append((name, value))
    return Asked.parse(
        document.get("method", "GET"),
        document["url"],
        headers=headers,
        sni=document.get("sni"),
        peer=document.get("client_ip", ""),
        port=port,
    )
