"""What programs of `fastgw._router_tests` must say of an expression: plain values, judged one by one.

Source: proxying reference §1.10. What the request does not have fails each comparison; a field of several
values holds for all of them, or for one where `any` says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": lambda data, wanted: bool(data == wanted),
    "!=": lambda data, wanted: bool(data != wanted),
    "^=": lambda data, wanted: bool(data.startswith(wanted)),
    "=^": lambda data, wanted: bool(data.endswith(wanted)),
    "contains": lambda data, wanted: wanted in data,
    "~": lambda data, wanted: re.search(wanted, data) is not None,
    "<": lambda data, wanted: bool(data < wanted),
    "<=": lambda data, wanted: bool(data <= wanted),
    ">": lambda data, wanted: bool(data > wanted),
    ">=": lambda data, wanted: bool(data >= wanted),
}


@dataclass(frozen=True)
class Comparison:
    name: str
    operator: str
    wanted: bytes | int
    is_any: bool = False
    is_lower: bool = False

    def text(self) -> str:
        operand = f"lower({self.name})" if self.is_lower else self.name
        operand = f"any({operand})" if self.is_any else operand
        wanted = self.wanted if isinstance(self.wanted, int) else f'r#"{self.wanted.decode()}"#'
        return f"{operand} {self.operator} {wanted}"


@dataclass(frozen=True)
class Group:
    """`&&` or `||` over parts, or `!` before one."""

    sign: str
    parts: Sequence[Expression]

    def text(self) -> str:
        if self.sign == "!":
            return f"!({self.parts[0].text()})"
        return f" {self.sign} ".join(f"({part.text()})" for part in self.parts)


Expression = Comparison | Group


@dataclass
class Fields:
    """A request by the names of fields; those of several values hold a list."""

    values: dict[str, Any]
    path: bytes
    matched: int = field(default=0)
    """How much of the path the last comparison matched that says so."""

    def holds(self, one: Expression) -> bool:
        if isinstance(one, Comparison):
            return self._compare(one)
        if one.sign == "!":
            return not self.holds(one.parts[0])
        return (all if one.sign == "&&" else any)(self.holds(part) for part in one.parts)

    def _compare(self, one: Comparison) -> bool:
        value = self.values.get(one.name)
        if value is None or value == []:
            return False
        if not isinstance(value, list):
            return self._compare_one(one, value)
        return (any if one.is_any else all)(self._compare_one(one, element) for element in value)

    def _compare_one(self, one: Comparison, data: Any) -> bool:
        if one.is_lower:
            data = data.lower()
        if not OPERATORS[one.operator](data, one.wanted):
            return False
        if one.name == "http.path" and isinstance(one.wanted, bytes):
            if one.operator == "^=":
                self.matched = len(one.wanted)
            elif one.operator == "~":
                found = re.search(one.wanted, data)
                self.matched = found.end() if found is not None and found.start() == 0 else 0
        return True


def segments_of(path: bytes) -> list[bytes]:
    path = path.removeprefix(b"/").removesuffix(b"/")
    return path.split(b"/") if path else []
