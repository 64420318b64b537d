"""What shapes leave unjudged is good: the same faults come out as when everything is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.errors import ValidationError
from fastgw.model.entities import ENTITIES
from fastgw.model.fields import UNSET, Field
from fastgw.model.rules import check_record
from fastgw.model.shapes import fill, shape_of
from tests.model.strategies import entity_bodies

_WRONG = st.sampled_from([None, "", "x", 0, -1, True, [], ["x"], {}, {"id": "x"}, "tcp", ["tcp"], "cookie"])


@st.composite
def partly_wrong(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    kind = draw(st.sampled_from(sorted(ENTITIES)))
    entity = ENTITIES[kind]
    body = dict(draw(entity_bodies(entity)))
    names = st.sampled_from(sorted(entity.fields))
    body |= draw(st.dictionaries(names, _WRONG, max_size=3))
    for name in draw(st.lists(st.sampled_from(sorted(body)), max_size=2)) if body else ():
        body.pop(name, None)
    return kind, body


def without_random(fields: Mapping[str, Field], value: Mapping[str, Any]) -> dict[str, Any]:
    """*value* without what is drawn at random where it was not given."""
    kept: dict[str, Any] = {}
    for name, held in value.items():
        field = fields.get(name)
        if field is not None and field.type == "record" and isinstance(held, Mapping):
            kept[name] = without_random(field.fields, held)
        elif field is None or not (field.auto and field.type == "string"):
            kept[name] = held
    return kept


@given(partly_wrong())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_nothing_wrong_is_left_unjudged(drawn: tuple[str, dict[str, Any]]) -> None:
    kind, body = drawn
    entity = ENTITIES[kind]
    try:
        shape = shape_of(entity, body)
    except ValidationError:
        return
    row = shape.row(body)
    plain = {name: fill(field, body.get(name, UNSET)) for name, field in shape.fields.items()}
    assert without_random(shape.fields, row) == without_random(shape.fields, plain)
    variant = entity.variant_of(row)
    checks = (*entity.checks, *(variant.checks if variant else ()))
    for is_update in (False, True):
        judged = check_record(shape.fields, checks, plain, is_update=is_update, known_faults={})
        quick = check_record(
            shape.fields,
            shape.checks_for(body),
            row,
            is_update=is_update,
            known_faults={},
            settled=shape.settled - body.keys(),
        )
        assert quick == judged


def test_rows_share_nothing_that_could_be_changed() -> None:
    shape = shape_of(ENTITIES["routes"], {"paths": ["/"]})
    first, second = shape.row({}), shape.row({})
    first["protocols"].append("x")
    assert second["protocols"] == shape.row({})["protocols"] == ["http", "https"]
