"""`POST /fastgw/transaction`: several writes as one, all or nothing, one version.

The body is `{"operations": [{"method", "path", "body", "if_match"}, ...]}`; each operation is what a request
would be, and later ones see what earlier ones did. `If-Match` on the whole is held against the version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import Answer, json_response
from fastgw.cp.admin.bodies import Body, unescape
from fastgw.cp.admin.config import version_tag
from fastgw.cp.admin.dispatch import Call, Dispatcher, Resource
from fastgw.cp.admin.rows import matches
from fastgw.cp.storage.contract import Storage, Writer

MOST_OPERATIONS: Final = 1000
_METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")
_PATH: Final = re.compile(r"/[^?#\s]{0,2000}")


class _Operation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: str
    path: str
    body: dict[str, Any] = {}
    if_match: str | None = None


class _Transaction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operations: list[_Operation]


def transaction_resources(storage: Storage, entities: Iterable[Resource]) -> Iterator[Resource]:
    """The resource, for operations on *entities*."""
    dispatcher = Dispatcher(entities)

    async def run(call: Call) -> Response:
        operations = _operations(call)
        results = []
        async with storage.write(call.actor) as writer:
            if call.if_match is not None and not matches(call.if_match, version_tag(writer.version - 1)):
                raise answers.precondition_failed("the configuration")
            for place, operation in enumerate(operations):
                try:
                    response = await _run(dispatcher, call, writer, operation)
                except Exception as error:
                    found = answers.answer_of(error)
                    if found is None:
                        raise
                    raise _failure(found, place, operation) from None
                body = msgspec.json.decode(response.body) if response.body else None
                results.append({"status": response.status_code, "body": body})
        answer = {"version": writer.version, "results": results}
        return json_response(answer, headers={"ETag": version_tag(writer.version)})

    yield Resource("/fastgw/transaction", {"POST": run})


def _operations(call: Call) -> list[_Operation]:
    try:
        operations = msgspec.convert(call.body.json, _Transaction).operations
    except msgspec.ValidationError as error:
        text = f"expected {{'operations': [{{'method', 'path', 'body', 'if_match'}}, ...]}}: {error}"
        raise answers.message(400, text) from None
    if len(operations) > MOST_OPERATIONS:
        raise answers.message(400, f"a transaction has at most {MOST_OPERATIONS} operations")
    return operations


async def _run(dispatcher: Dispatcher, call: Call, writer: Writer, operation: _Operation) -> Response:
    if operation.method not in _METHODS:
        raise answers.message(400, f"method must be one of {', '.join(_METHODS)}")
    if not _PATH.fullmatch(operation.path):
        raise answers.message(400, "path must begin with / and hold no query")
    resource, captured = dispatcher.find(operation.path.encode())
    endpoint = resource.endpoints.get(operation.method)
    if endpoint is None:
        raise answers.message(405, "Method not allowed")
    return await endpoint(
        Call(
            request=call.request,
            captured=tuple(unescape(raw) for raw in captured),
            raw_captured=tuple(raw.decode("utf-8") for raw in captured),
            arguments={},
            body=Body(json=operation.body),
            if_match=operation.if_match,
            writer=writer,
        )
    )


def _failure(found: Answer, place: int, operation: _Operation) -> Answer:
    what = f"operation {place} ({operation.method} {operation.path}) failed, nothing was changed"
    reason = found.body.get("message")
    return Answer(
        found.status, {"message": f"{what}: {reason}", "operation": place, "error": dict(found.body)}
    )
