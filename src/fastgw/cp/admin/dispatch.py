"""Paths to endpoints: a table of patterns and methods, and the order in which a request is checked.

1. Path known? else 404. 2. Content type of POST, PUT, PATCH? else 415. 3. Method offered? else 405.
4. Body readable? else 400, 408 or 413. Then the endpoint. OPTIONS and HEAD exist wherever they make sense
without being declared.

The path is matched on its raw bytes, segment by segment, each decoded once afterwards, so that `%2F` can
stand in a name; a web framework's router sees the decoded path and could not tell. Source:
kong/api/init.lua.

While the database is away, a read is answered from the last configuration that was read from it, with a
header that says so; what needs the database itself is 503 with the reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fastgw.cp.admin import answers
from fastgw.cp.admin.bodies import Body, check_content_type, parse_urlencoded, read_body, unescape
from fastgw.cp.storage.contract import Reader, Storage, Writer
from fastgw.cp.storage.snapshot_reader import SnapshotReader
from fastgw.errors import StorageError, StorageUnavailable
from fastgw.obs.logs import get_logger

if TYPE_CHECKING:
    from fastgw.cp.admin.last_known import LastKnown

log = get_logger(__name__)

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_READS: Final = frozenset({"GET", "HEAD"})

STALE_HEADER: Final = "X-Fastgw-Stale"
"""Says which version a read was answered from while the database was away."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as an endpoint sees it."""

    request: Request
    #: What stands in the places of the pattern, decoded.
    captured: tuple[str, ...]
    #: The same as it was sent.
    raw_captured: tuple[str, ...]
    #: First value of each query argument.
    arguments: Mapping[str, Any]
    body: Body
    #: The entity tag of `If-Match`, as it was sent.
    if_match: str | None = None
    #: The transaction that this request is a part of.
    writer: Writer | None = None
    #: What is read from instead of the database, which is away.
    last_known: SnapshotReader | None = None

    @property
    def actor(self) -> str:
        """Who stands in the journal: the name that a token gives, else the address of the peer."""
        named: str | None = self.request.scope.get("fastgw.actor")
        if named is not None:
            return named
        client = self.request.client
        return client.host if client else "unknown"

    def take_last_known(self) -> SnapshotReader | None:
        """What to read from while the database is away, if it is; the answer will say so."""
        if self.last_known is not None:
            self.request.state.is_last_known = True
        return self.last_known

    @property
    def last_known_is_used(self) -> bool:
        return getattr(self.request.state, "is_last_known", False)

    @asynccontextmanager
    async def reading(self, storage: Storage) -> AsyncIterator[Reader]:
        """Open a view, or read in the transaction that this request is a part of."""
        instead: Reader | None = self.writer or self.take_last_known()
        if instead is not None:
            yield instead
            return
        async with storage.read() as reader:
            yield reader

    @asynccontextmanager
    async def writing(self, storage: Storage) -> AsyncIterator[Writer]:
        """Open a transaction, or go on in the one that this request is a part of."""
        if self.writer is not None:
            yield self.writer
            return
        async with storage.write(self.actor) as writer:
            yield writer


Endpoint = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Resource:
    """A path pattern, such as `/services/{services}/routes`, and an endpoint for each method."""

    pattern: str
    endpoints: Mapping[str, Endpoint]
    #: Taken beside JSON and forms.
    content_types: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods on offer, sorted."""
        implied = {"OPTIONS", "HEAD"} if "GET" in self.endpoints else {"OPTIONS"}
        return tuple(sorted(implied | set(self.endpoints)))


class _Node:
    """One segment of the patterns."""

    __slots__ = ("any", "named", "resource")

    def __init__(self) -> None:
        self.named: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.resource: Resource | None = None


class Dispatcher:
    """The ASGI application over a table of resources."""

    def __init__(
        self,
        resources: Iterable[Resource],
        *,
        last_known: LastKnown | None = None,
    ) -> None:
        """Of two resources with one pattern, the later counts.

        Args:
            last_known: what to read from while the database is away; without it, all is 503 then.
        """
        self._last_known = last_known
        self._root = _Node()
        self.resources = {resource.pattern: resource for resource in resources}
        for resource in self.resources.values():
            node = self._root
            for segment in filter(None, resource.pattern.split("/")):
                if segment.startswith("{"):
                    node.any = node.any or _Node()
                    node = node.any
                else:
                    node = node.named.setdefault(segment, _Node())
            node.resource = resource

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._respond(request)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        try:
            return await self._dispatch(request)
        except Exception as error:
            found = answers.answer_of(error)
            if isinstance(error, StorageUnavailable) or (found is None and isinstance(error, StorageError)):
                log.error("%s %s failed: %s", request.method, request.url.path, error)
            elif found is None:
                log.exception("%s %s failed", request.method, request.url.path)
            return answers.error_response(found or answers.unexpected())

    async def _dispatch(self, request: Request) -> Response:
        resource, captured = self.find(request.scope["raw_path"])
        method = request.method
        if method == "OPTIONS":
            return _options(resource, request)
        if method in _WITH_BODY:
            check_content_type(request, resource.content_types)
        endpoint = resource.endpoints.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            raise answers.message(405, "Method not allowed")
        arguments: dict[str, Any] = {}
        for name, value in parse_urlencoded(request.scope["query_string"]):
            arguments.setdefault(name, value)
        call = Call(
            request=request,
            captured=tuple(unescape(raw) for raw in captured),
            raw_captured=tuple(raw.decode("latin-1") for raw in captured),
            arguments=arguments,
            body=await read_body(request) if method in _WITH_BODY else Body(),
            if_match=request.headers.get("if-match"),
        )
        return await self._answer(endpoint, call, is_reading=method in _READS)

    async def _answer(self, endpoint: Endpoint, call: Call, *, is_reading: bool) -> Response:
        """The endpoint's answer; of a read, while the database is away, from what is known."""
        known = self._last_known
        if known is None:
            return await endpoint(call)
        if not is_reading:
            response = await endpoint(call)
            known.note_back()
            return response
        if not known.is_away:
            try:
                return await endpoint(call)
            except StorageUnavailable as error:
                known.note_away(error)
                if known.reader() is None:
                    raise
        call = replace(call, last_known=known.reader())
        response = await endpoint(call)
        if call.last_known is not None and call.last_known_is_used:
            response.headers[STALE_HEADER] = f"version={call.last_known.snapshot.version}"
        return response

    def find(self, raw_path: bytes) -> tuple[Resource, list[bytes]]:
        """The resource of a path and the segments in its places; a slash at the end does not count."""
        path = raw_path.partition(b"?")[0].removeprefix(b"/").removesuffix(b"/")
        found = _find(self._root, path.split(b"/") if path else [])
        if found is None:
            raise answers.not_found()
        return found


def _find(node: _Node, segments: list[bytes]) -> tuple[Resource, list[bytes]] | None:
    """What a path leads to from *node*: by names where that leads anywhere, else by places.

    No deeper than the patterns are, and of two ways at most at each step.
    """
    if not segments:
        return None if node.resource is None else (node.resource, [])
    first, *others = segments
    named = node.named.get(unescape(first))
    if named is not None and (found := _find(named, others)) is not None:
        return found
    if node.any is not None and first and (found := _find(node.any, others)) is not None:
        resource, captured = found
        return resource, [first, *captured]
    return None


def _options(resource: Resource, request: Request) -> Response:
    methods = ", ".join(resource.methods)
    asked = request.headers.get("access-control-request-headers", "Content-Type")
    return Response(
        status_code=204,
        headers={
            "Allow": methods,
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": asked,
        },
    )
