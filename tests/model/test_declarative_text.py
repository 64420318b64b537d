"""The text of declarative files: what aliases may stand for, and what is a string."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import DeclarativeError
from fastgw.model.declarative_text import ADDED_LIMIT, added_by_aliases, parse_text


def parse(text: str) -> Any:
    return parse_text(text.encode(), "kong.yml", is_json=False)


def bomb(levels: int) -> str:
    """Ten of ten of ten of … values, in a few lines."""
    lines = ["- &x0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"- &x{level} [{', '.join([f'*x{level - 1}'] * 10)}]" for level in range(1, levels)]
    return "\n".join(lines)


def test_aliases_may_share_what_would_stand_a_few_times() -> None:
    shared = parse("a: &a {x: [1, 2]}\nb: *a\nc: [*a, *a]\n")
    assert shared == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}, "c": [{"x": [1, 2]}] * 2}


@pytest.mark.parametrize("levels", [7, 12, 300])
def test_aliases_do_not_stand_for_millions_of_values(levels: int) -> None:
    with pytest.raises(DeclarativeError, match="the aliases in it stand for more than") as raised:
        parse(bomb(levels))
    assert str(ADDED_LIMIT) in raised.value.faults[0][1]


def test_aliases_do_not_stand_for_gigabytes_of_text() -> None:
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 20_000)}]"
    with pytest.raises(DeclarativeError, match="the aliases in it stand for more than"):
        parse(text)


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: {c: [*a]}}"])
def test_an_alias_for_what_it_stands_in_is_refused(text: str) -> None:
    with pytest.raises(DeclarativeError, match="an alias stands in what it names"):
        parse(text)


@given(
    st.recursive(
        st.integers() | st.text(max_size=3), lambda item: st.lists(item) | st.dictionaries(st.text(), item)
    )
)
def test_what_stands_once_adds_nothing_and_what_stands_twice_all_of_it(value: Any) -> None:
    once = json.loads(json.dumps(value))
    assert added_by_aliases([once]) == 0
    size = added_by_aliases([once, once])
    assert (size > 0) is isinstance(once, list | dict)
    assert added_by_aliases([once, once, once]) == 2 * size


def test_a_chain_of_aliases_is_followed_without_recursion() -> None:
    deepest: list[Any] = []
    for _ in range(100_000):
        deepest = [deepest]
    assert added_by_aliases(deepest) == 0


@pytest.mark.parametrize("date", ["2026-01-31", "2026-99-99", "2026-01-31 10:00:00"])
def test_a_date_is_a_string(date: str) -> None:
    assert parse(f"tags: [{date}]") == {"tags": [date]}
