"""Programs: what must hold of a request beyond host, path and method, assembled from trees of tests.

A tree is a `Test`, or `All`, `Either` or `Not` over trees. It is laid out as instructions in the order in
which they stand, each with two places to go on to, always further down; see `Instruction` in _router.pxd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from fastgw._regex import literal_prefix
from fastgw._router import InstructionFlag, Operator, RequestField

INSTRUCTIONS_LIMIT: Final = 0xFFF0

_PROGRAM: Final = Struct("<II")
_INSTRUCTION: Final = Struct("<BBBBHHIIIIqIHH")
_HOLDS: Final = 0xFFFF
_FAILS: Final = 0xFFFE


class Test(NamedTuple):
    """One comparison; what each member means stands in _router.pxd."""

    operator: Operator
    field: RequestField
    flags: int = 0
    name: bytes = b""
    text: bytes = b""
    number: int = 0
    regex: int = 0
    family: int = 0
    segments: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class All:
    parts: Sequence[Tree]


@dataclass(frozen=True, slots=True)
class Either:
    parts: Sequence[Tree]


@dataclass(frozen=True, slots=True)
class Not:
    part: Tree


Tree = Test | All | Either | Not


class _Place:
    """Where an instruction goes on to; known once what stands there is laid out."""

    __slots__ = ("at",)

    def __init__(self, at: int = -1) -> None:
        self.at = at


def assemble(tree: Tree) -> bytes:
    """The bytes of a program.

    Raises:
        ValueError: it has more than `INSTRUCTIONS_LIMIT` tests.
    """
    code: list[tuple[Test, _Place, _Place]] = []
    _lay_out(tree, _Place(_HOLDS), _Place(_FAILS), code)
    if len(code) > INSTRUCTIONS_LIMIT:
        raise ValueError(f"more than {INSTRUCTIONS_LIMIT} comparisons in one route")
    start = _PROGRAM.size + _INSTRUCTION.size * len(code)
    instructions = bytearray()
    texts = bytearray()
    places: dict[bytes, int] = {}

    def place_of(text: bytes) -> int:
        if text not in places:
            places[text] = start + len(texts)
            texts.extend(text)
        return places[text]

    for test, yes, no in code:
        instructions += _INSTRUCTION.pack(
            test.operator,
            test.field,
            test.flags,
            test.family,
            yes.at,
            no.at,
            place_of(test.name),
            len(test.name),
            place_of(test.text),
            len(test.text),
            test.number,
            test.regex,
            *test.segments,
        )
    texts += bytes(-(start + len(texts)) % 8)
    return _PROGRAM.pack(start + len(texts), len(code)) + instructions + texts


def _lay_out(tree: Tree, yes: _Place, no: _Place, code: list[tuple[Test, _Place, _Place]]) -> None:
    if isinstance(tree, Test):
        code.append((tree, yes, no))
    elif isinstance(tree, Not):
        _lay_out(tree.part, no, yes, code)
    else:
        for part in tree.parts[:-1]:
            following = _Place()
            if isinstance(tree, All):
                _lay_out(part, following, no, code)
            else:
                _lay_out(part, yes, following, code)
            following.at = len(code)
        _lay_out(tree.parts[-1], yes, no, code)


def conditions(
    headers: Sequence[tuple[bytes, Sequence[bytes]]],
    snis: Sequence[bytes],
    *,
    is_old: bool,
    number_of: Callable[[bytes], int],
) -> list[Tree]:
    """What a route's headers and SNIs ask for; all of it must hold.

    Args:
        is_old: by the rules of `traditional`: a regex only where a header has one value, and not itself
            folded to lower case; `-` and `_` differ; no wildcards in SNIs.
        number_of: the number of a regex in the table, by its pattern.
    Source: proxying reference §1.3, §1.10.
    """
    parts: list[Tree] = []
    if snis:
        # Over http there is no SNI: the condition counts as kept, so that a redirect can be given.
        kept: list[Tree] = [Not(Test(Operator.OPERATOR_EQUAL, RequestField.FIELD_PROTOCOL, text=b"https"))]
        kept += [_sni_test(sni.lower(), is_old) for sni in snis]
        parts.append(Either(kept))
    for name, values in headers:
        if not values:
            raise ValueError(f"header {name.decode(errors='replace')} has no values")
        regexes_allowed = len(values) == 1 or not is_old
        parts.append(
            Either([_header_test(name, value, is_old, regexes_allowed, number_of) for value in values])
        )
    return parts


def _sni_test(sni: bytes, is_old: bool) -> Test:
    if len(sni) > 1:
        sni = sni.removesuffix(b".")
    operator = Operator.OPERATOR_EQUAL
    if not is_old and sni.startswith(b"*"):
        operator, sni = Operator.OPERATOR_SUFFIX, sni[1:]
    elif not is_old and sni.endswith(b"*"):
        operator, sni = Operator.OPERATOR_PREFIX, sni[:-1]
    return Test(operator, RequestField.FIELD_SNI, text=sni)


def _header_test(
    name: bytes, value: bytes, is_old: bool, regexes_allowed: bool, number_of: Callable[[bytes], int]
) -> Test:
    flags = InstructionFlag.INSTRUCTION_LOWER | InstructionFlag.INSTRUCTION_ANY
    name = name.lower()
    if not is_old:
        flags |= InstructionFlag.INSTRUCTION_DASHES
        name = name.replace(b"_", b"-")
    if regexes_allowed and value.startswith(b"~*"):
        pattern = value[2:] if is_old else value[2:].lower()
        return Test(Operator.OPERATOR_REGEX, RequestField.FIELD_HEADER, flags, name, regex=number_of(pattern))
    return Test(Operator.OPERATOR_EQUAL, RequestField.FIELD_HEADER, flags, name, value.lower())


def has_regex(tree: Tree) -> bool:
    """Whether some test of *tree* calls a regex."""
    if isinstance(tree, Test):
        return tree.operator == Operator.OPERATOR_REGEX
    return has_regex(tree.part) if isinstance(tree, Not) else any(map(has_regex, tree.parts))


def with_regexes(tree: Tree, number_of: Callable[[bytes], int]) -> Tree:
    """*tree* with its patterns replaced by their numbers in a table."""
    if isinstance(tree, Test):
        if tree.operator != Operator.OPERATOR_REGEX:
            return tree
        return tree._replace(text=b"", regex=number_of(tree.text))
    if isinstance(tree, Not):
        return Not(with_regexes(tree.part, number_of))
    parts = [with_regexes(part, number_of) for part in tree.parts]
    return All(parts) if isinstance(tree, All) else Either(parts)


HINTS_LIMIT: Final = 64
"""Values of one kind; with more an expression is looked at for every request."""


class Hints(NamedTuple):
    """What a request must have for a tree to hold: one of these hosts and so on; None: any may."""

    hosts: frozenset[bytes] | None = None
    prefixes: frozenset[bytes] | None = None
    methods: frozenset[bytes] | None = None


def hints_of(tree: Tree) -> Hints:
    """Never more than the truth: what is not understood may be any."""
    if isinstance(tree, Test):
        return _hint_of(tree)
    if isinstance(tree, Not):
        return Hints()
    found = [hints_of(part) for part in tree.parts]
    if isinstance(tree, All):
        return Hints(*(min(filter(None, kind), key=len, default=None) for kind in zip(*found, strict=True)))
    return Hints(*(_union(kind) for kind in zip(*found, strict=True)))


def _union(kind: tuple[frozenset[bytes] | None, ...]) -> frozenset[bytes] | None:
    known = [values for values in kind if values is not None]
    values = frozenset().union(*known)
    return values if len(known) == len(kind) and len(values) <= HINTS_LIMIT else None


def _hint_of(test: Test) -> Hints:
    if test.flags & InstructionFlag.INSTRUCTION_LOWER:
        return Hints()
    is_equal = test.operator == Operator.OPERATOR_EQUAL
    if is_equal and test.field == RequestField.FIELD_HOST:
        return Hints(hosts=frozenset([test.text]))
    if is_equal and test.field == RequestField.FIELD_METHOD and test.text:
        return Hints(methods=frozenset([test.text]))
    if test.field == RequestField.FIELD_PATH:
        if is_equal or test.operator == Operator.OPERATOR_PREFIX:
            return Hints(prefixes=frozenset([test.text]))
        if test.operator == Operator.OPERATOR_REGEX and test.text.startswith(b"^"):
            return Hints(prefixes=frozenset([literal_prefix(test.text[1:])]))
    return Hints()
