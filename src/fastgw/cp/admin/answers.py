"""Answers of the Admin API: JSON bodies, and Kong's errors with their codes and words.

An error is an `Answer` exception wherever it is found; the dispatcher turns it into the response.
Source: kong/db/errors.lua and kong/api/endpoints.lua, release 3.9.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.responses import Response

from fastgw.errors import (
    DeclarativeError,
    ForeignViolation,
    OptionsError,
    ReferencedViolation,
    StorageUnavailable,
    UniqueViolation,
    ValidationError,
)
from fastgw.model.faults import Fault, lua_literal, lua_table, summary

JSON_TYPE: Final = "application/json; charset=utf-8"
_encoder: Final = msgspec.json.Encoder()


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encoder.encode(body), status, headers, media_type=JSON_TYPE)


class Answer(Exception):
    """The request ends here with this status and body."""

    def __init__(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        super().__init__(f"{status} {body.get('message')}")


def error_response(answer: Answer) -> Response:
    """The response of an error. What it quotes may hold bytes that were no UTF-8: they show as `?`."""
    try:
        return json_response(answer.body, answer.status, answer.headers)
    except UnicodeEncodeError:
        return json_response(_encodable(answer.body), answer.status, answer.headers)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_encodable(name): _encodable(item) for name, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


def message(status: int, text: str) -> Answer:
    return Answer(status, {"message": text})


def not_found() -> Answer:
    return message(404, "Not found")


def unexpected() -> Answer:
    return message(500, "An unexpected error occurred")


def unavailable(error: StorageUnavailable) -> Answer:
    return message(503, f"The database cannot serve this now, try again later: {error}")


def _error(status: int, code: int, name: str, text: str, **detail: Any) -> Answer:
    return Answer(status, {"code": code, "name": name, "message": text, **detail})


def schema_violation(error: ValidationError) -> Answer:
    return _error(400, 2, "schema violation", summary(error.fields), fields=error.fields)


def invalid_primary_key(fault: Fault) -> Answer:
    fields = {"id": fault}
    return _error(400, 1, "invalid primary key", f"invalid primary key: '{lua_table(fields)}'", fields=fields)


def invalid_unique(field: str, fault: str) -> Answer:
    return _error(400, 10, f"invalid unique {field}", fault)


def row_not_found(key: Mapping[str, Any]) -> Answer:
    with_key = f"the entity with {'primary key ' if 'id' in key else ''}'{lua_table(key)}'"
    return _error(404, 6, "not found", f"could not find {with_key}", fields=key)


def unique_violation(error: UniqueViolation) -> Answer:
    shown = lua_table(error.fields)
    if list(error.fields) == ["id"]:
        text = f"primary key violation on key '{shown}'"
        return _error(400, 3, "primary key violation", text, fields=error.fields)
    text = f"UNIQUE violation detected on '{shown}'"
    return _error(409, 5, "unique constraint violation", text, fields=error.fields)


def foreign_violation(error: ForeignViolation) -> Answer:
    key = {"id": error.value}
    text = f"the foreign key '{lua_table(key)}' does not reference an existing '{error.reference}' entity."
    return _error(400, 4, "foreign key violation", text, fields={error.field: key})


def referenced_violation(error: ReferencedViolation) -> Answer:
    text = f"an existing '{error.referenced_by}' entity references this '{error.entity}' entity"
    return _error(400, 4, "foreign key violation", text, fields={"@referenced_by": error.referenced_by})


def foreign_unresolved(fields: Mapping[str, Any]) -> Answer:
    text = summary(fields, one="foreign key unresolved", many="foreign keys unresolved")
    return _error(400, 13, "foreign keys unresolved", text, fields=fields)


def invalid_size(text: str) -> Answer:
    return _error(400, 9, "invalid size", text)


def invalid_offset(token: str, reason: str) -> Answer:
    return _error(400, 7, "invalid offset", f"'{token}' is not a valid offset: {reason}")


def invalid_option(name: str, text: str) -> Answer:
    options = {name: text}
    joined = summary(options, one="invalid option", many="option violations")
    return _error(400, 11, "invalid options", joined, options=options)


def invalid_options(error: OptionsError) -> Answer:
    joined = summary(error.options, one="invalid option", many="option violations")
    return _error(400, 11, "invalid options", joined, options=error.options)


def still_referenced(id: str, referrer: str, referrer_id: str) -> Answer:
    text = f"ca certificate {id} is still referenced by {referrer} (id = {referrer_id})"
    return _error(400, 19, "referenced by others", text)


def precondition_failed(what: str) -> Answer:
    return message(412, f"{what} has changed since it was read: read it again, then repeat the change")


def invalid_declarative(error: DeclarativeError) -> Answer:
    return _error(
        400,
        14,
        "invalid declarative configuration",
        f"declarative config is invalid: {lua_literal(error.fields)}",
        fields=error.fields,
    )


def answer_of(error: Exception) -> Answer | None:
    """The answer that an error of the layers below becomes; None for one that is nobody's business."""
    match error:
        case Answer():
            return error
        case ValidationError():
            return schema_violation(error)
        case OptionsError():
            return invalid_options(error)
        case UniqueViolation():
            return unique_violation(error)
        case StorageUnavailable():
            return unavailable(error)
        case ForeignViolation():
            return foreign_violation(error)
        case ReferencedViolation():
            return referenced_violation(error)
        case DeclarativeError():
            return invalid_declarative(error)
    return None
