"""What plugins see of a request and its answer.

Text is latin-1, one character per byte, as HTTP has it. Fields that say how a message is framed or how this
hop keeps its connection can be read and not written: framing is the gateway's own business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from fastgw.dp.answers import LENGTHLESS

#: Written by the gateway alone (RFC 9110 §7.6.1, RFC 9112 §6).
GUARDED: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\u0100-\U0010ffff]*")


class Headers:
    """Fields in their order; names compare without regard to case, and may come more than once."""

    __slots__ = ("_fields", "is_changed")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = list(fields)
        self.is_changed = False
        """Whether a plugin has written."""

    @classmethod
    def parse(cls, head: bytes, *, drops_underscores: bool = False) -> Headers:
        """The fields of *head*, which is valid and has its first line and its empty last one."""
        fields = []
        for line in head.decode("latin-1").split("\r\n")[1:-2]:
            name, _, value = line.partition(":")
            if not (drops_underscores and "_" in name):
                fields.append((name, value.strip(" \t")))
        return cls(fields)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of *name*."""
        name = name.lower()
        return next((value for known, value in self._fields if known.lower() == name), default)

    def get_all(self, name: str) -> list[str]:
        name = name.lower()
        return [value for known, value in self._fields if known.lower() == name]

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        """Put one field in place of all of that name."""
        _check(name, value)
        self._take_out(name)
        self._fields.append((name, value))

    def __delitem__(self, name: str) -> None:
        """Take out all fields of that name; none is no error."""
        _check(name, "")
        self._take_out(name)

    def add(self, name: str, value: str) -> None:
        """Append a field beside those of its name."""
        _check(name, value)
        self._fields.append((name, value))
        self.is_changed = True

    def items(self) -> list[tuple[str, str]]:
        return list(self._fields)

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._fields])

    def __len__(self) -> int:
        return len(self._fields)

    def to_bytes(self) -> bytes:
        """Each field as its line, CRLF included."""
        return "".join([f"{name}: {value}\r\n" for name, value in self._fields]).encode("latin-1")

    def _take_out(self, name: str) -> None:
        name = name.lower()
        self._fields = [field for field in self._fields if field[0].lower() != name]
        self.is_changed = True


def _check(name: str, value: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"no field can be called {name!r}")
    if name.lower() in GUARDED:
        raise ValueError(f"field {name} belongs to the gateway: a plugin cannot write it")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"field {name} cannot hold line ends, controls, or what is not latin-1")


class Consumer(msgspec.Struct, frozen=True):
    """Who asks, as an authentication plugin has found out."""

    id: str
    username: str | None = None
    custom_id: str | None = None


class Target(msgspec.Struct, frozen=True):
    """A route or service, as far as plugins name it."""

    id: str
    name: str | None


class Request:
    """One request, from its head to the log.

    After routing, changes of `method`, `query` and `headers` go upstream; `path` stays what the client asked
    for, and `upstream_path` is in its place there.
    """

    __slots__ = (
        "_authority",
        "_headers",
        "_head",
        "_drops_underscores",
        "_body",
        "_method",
        "_path",
        "_query",
        "_upstream_host",
        "_upstream_path",
        "client_ip",
        "consumer",
        "credential",
        "ctx",
        "id",
        "is_body_changed",
        "is_line_changed",
        "minor",
        "port",
        "route",
        "scheme",
        "service",
        "started_at",
    )

    def __init__(
        self,
        head: bytes,
        *,
        authority: str,
        path: str,
        query: str,
        id: str,
        scheme: str,
        port: int,
        client_ip: str,
        started_at: float,
        drops_underscores: bool,
    ) -> None:
        self._head = head
        self._drops_underscores = drops_underscores
        self._headers: Headers | None = None
        line = head[: head.index(b"\r\n")].decode("ascii")
        self._method, _, rest = line.partition(" ")
        self.minor = int(rest[-1])
        """Of HTTP/1.minor."""
        self._authority = authority
        self._path = path
        self._query = query  # with its question mark, which may stand alone
        self._upstream_path: str | None = None
        self._upstream_host: str | None = None
        self._body: bytes | None = b""
        self.is_line_changed = False
        self.is_body_changed = False
        self.id = id
        """X-Kong-Request-Id: 32 hex digits."""
        self.scheme = scheme
        """`http` or `https`, of the client's connection."""
        self.port = port
        """Of the listener."""
        self.client_ip = client_ip
        """The client's address; what a trusted peer says, where there is one."""
        self.started_at = started_at
        """Wall time, seconds."""
        self.route: Target | None = None
        self.service: Target | None = None
        self.consumer: Consumer | None = None
        """From `access` on: set by the plugin that finds out; later ones serve with what is his."""
        self.credential: Any = None
        self.ctx: dict[str, Any] = {}
        """What the plugins of this request tell each other."""

    @property
    def headers(self) -> Headers:
        if self._headers is None:
            self._headers = Headers.parse(self._head, drops_underscores=self._drops_underscores)
        return self._headers

    @property
    def head_size(self) -> int:
        """Bytes of the head as it came."""
        return len(self._head)

    @property
    def method(self) -> str:
        return self._method

    @method.setter
    def method(self, method: str) -> None:
        if re.fullmatch(r"[A-Z_-]{1,32}", method) is None:
            raise ValueError(f"{method!r} is no method that goes on")
        self._method = method
        self.is_line_changed = True

    @property
    def path(self) -> str:
        """As it came, percent-encoding included, without the query."""
        return self._path

    @path.setter
    def path(self, path: str) -> None:
        """Only before routing (`rewrite`)."""
        if self.route is not None:
            raise ValueError("the route is found: set upstream_path")
        self._path = _path(path)
        self.is_line_changed = True

    @property
    def query(self) -> str:
        """As it came, without the question mark."""
        return self._query[1:]

    @query.setter
    def query(self, query: str) -> None:
        if re.fullmatch(r"[!-~]*", query) is None or "#" in query:
            raise ValueError("a query holds visible ASCII without '#': encode the rest")
        self._query = f"?{query}" if query else ""
        self.is_line_changed = True

    @property
    def upstream_path(self) -> str | None:
        """What is asked of the service; None: what route and service make of `path`."""
        return self._upstream_path

    @upstream_path.setter
    def upstream_path(self, path: str | None) -> None:
        self._upstream_path = None if path is None else _path(path)

    @property
    def upstream_host(self) -> str | None:
        """Host for the service; None: as route and service say."""
        return self._upstream_host

    @upstream_host.setter
    def upstream_host(self, host: str | None) -> None:
        if host is not None and re.fullmatch(r"[A-Za-z0-9._\-\[\]:]{1,512}", host) is None:
            raise ValueError(f"{host!r} can be no host")
        self._upstream_host = host

    @property
    def body(self) -> bytes | None:
        """The whole body, for a chain with a plugin of which `reads_body` is true.

        None where it is longer than a plugin may see (`BODY_LIMIT`), or is not read; it goes on all the same.
        """
        return self._body

    @body.setter
    def body(self, body: bytes) -> None:
        if self._body is None:
            raise ValueError("the body is not here to be replaced")
        self._body = bytes(body)
        self.is_body_changed = True

    def take_body(self, body: bytes | None) -> None:
        """For the gateway: what the client has sent."""
        self._body = body

    @property
    def is_changed(self) -> bool:
        """Whether the head must be written anew."""
        return self.is_line_changed or (self._headers is not None and self._headers.is_changed)

    def to_bytes(self) -> bytes:
        """The head with all changes, to be judged as one that came."""
        # An absolute target stands in place of Host (RFC 9112 §3.2.2).
        origin = f"{self.scheme}://{self._authority}" if self._authority else ""
        line = f"{self._method} {origin}{self._path}{self._query} HTTP/1.{self.minor}\r\n"
        return line.encode("latin-1") + self.headers.to_bytes() + b"\r\n"


class Response:
    """The answer: the upstream's, the gateway's own, or a plugin's."""

    __slots__ = (
        "_body",
        "_head",
        "_headers",
        "_status",
        "bytes_sent",
        "gateway_ms",
        "is_body_changed",
        "is_status_changed",
        "request_ms",
        "source",
        "upstream_ms",
    )

    def __init__(self, head: bytes, status: int, source: str) -> None:
        self._head = head
        self._headers: Headers | None = None
        self._status = status
        self._body: bytes | None = None
        self.source = source
        """Kong's words: `service`, `exit` (a plugin) or `error` (the gateway)."""
        self.is_status_changed = False
        self.is_body_changed = False
        self.bytes_sent = 0
        """Head, framing and body; from `log` on, and so are the latencies."""
        self.request_ms = 0
        """From the request's head to the last byte of the answer."""
        self.gateway_ms = 0
        """Of these, until the request went upstream; all, where it did not."""
        self.upstream_ms: int | None = None
        """Until the upstream's head came; None: no upstream answered."""

    @property
    def headers(self) -> Headers:
        if self._headers is None:
            self._headers = Headers.parse(self._head)
        return self._headers

    @property
    def status(self) -> int:
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is no status of an answer")
        self._status = status
        self.is_status_changed = True

    @property
    def body(self) -> bytes | None:
        """In `response`: the whole body; None in all other phases."""
        return self._body

    @body.setter
    def body(self, body: bytes) -> None:
        if self._body is None:
            raise ValueError("the body is there in the phase 'response' only")
        self._body = bytes(body)
        self.is_body_changed = True

    def take_body(self, body: bytes) -> None:
        """For the gateway: what the upstream has sent."""
        self._body = body

    @property
    def is_changed(self) -> bool:
        """Whether the head must be written anew."""
        return self.is_status_changed or (self._headers is not None and self._headers.is_changed)

    def to_bytes(self) -> bytes:
        """The head with all changes, to be judged as one that came."""
        return b"HTTP/1.1 %d \r\n" % self._status + self.headers.to_bytes() + b"\r\n"

    def to_own_bytes(self, body_size: int | None) -> bytes:
        """The head of an answer that the gateway makes, as it is sent; None: its length stays."""
        try:
            phrase = HTTPStatus(self._status).phrase
        except ValueError:
            phrase = ""
        lengths = [value for name, value in self.headers.items() if name.lower() == "content-length"]
        fields = [(name, value) for name, value in self.headers.items() if name.lower() != "content-length"]
        if self._status not in LENGTHLESS:
            if body_size is not None:
                fields.append(("Content-Length", str(body_size)))
            else:
                fields += [("Content-Length", value) for value in lengths]
        return f"HTTP/1.1 {self._status} {phrase}\r\n".encode("ascii") + Headers(fields).to_bytes() + b"\r\n"


class Answer:
    """A plugin's own answer, which ends the way to the upstream: returned by `rewrite` and `access`.

    Args:
        body: bytes or text as they are; a mapping or list as JSON; None for none.
        headers: with Content-Type, where it is not JSON's or plain text's.
    """

    __slots__ = ("body", "headers", "is_message", "status")

    def __init__(
        self,
        status: int,
        body: bytes | str | Mapping[str, Any] | list[Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is no status of an answer")
        self.status = status
        self.headers = Headers()
        for name, value in (headers or {}).items():
            self.headers.add(name, value)
        self.is_message = False
        """Whether *body* is a message that the client's Accept gives its form."""
        if body is None or isinstance(body, bytes):
            self.body = body or b""
        elif isinstance(body, str):
            self._say("text/plain; charset=utf-8")
            self.body = body.encode()
        else:
            self._say("application/json; charset=utf-8")
            self.body = msgspec.json.encode(body)

    @classmethod
    def message(cls, status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
        """An answer in Kong's form of errors: JSON, text, HTML or XML, as the client's Accept says."""
        answer = cls(status, message.encode(), headers)
        answer.is_message = True
        return answer

    def _say(self, media_type: str) -> None:
        if "content-type" not in self.headers:
            self.headers.add("Content-Type", media_type)


def _path(path: str) -> str:
    if re.fullmatch(r"/[!-~]*", path) is None or "?" in path or "#" in path:
        raise ValueError(f"{path!r} is no path: it begins with '/' and holds visible ASCII, encoded")
    return path
