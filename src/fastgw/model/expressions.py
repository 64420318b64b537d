"""Expressions over a request, as routes of Kong's `expressions` flavor are written: text in, tree out.

    expression := term (("&&" term)* | ("||" term)*)
    term       := "!"* (comparison | "(" expression ")")
    comparison := operand operator literal
    operand    := field | ("lower" | "any") "(" operand ")"

Contract. `parse_expression` gives a tree whose every comparison fits the type of its field, or raises with
the place and what to write instead. Regexes stand in it by their pattern, already tried.

The one complication: Kong's engine reads `&&` and `||` from left to right, which is hardly what anybody
means by `a || b && c`. Mixed without parentheses they are refused.
Source: proxying reference §1.10; grammar of Kong/atc-router.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal, NamedTuple, NoReturn

from fastgw._router import InstructionFlag, Operator, RequestField
from fastgw._router_program import All, Either, Not, Test, Tree
from fastgw.model.regexes import regex_fault

LIMIT_BYTES: Final = 0xFFFF
DEPTH_LIMIT: Final = 64
HIGHEST_PRIORITY: Final = 2**46 - 1

Type = Literal["string", "int", "ip"]


class ExpressionError(ValueError):
    """An expression that cannot be served; the message names the character."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(f"at character {at + 1}: {reason}")


class _Field(NamedTuple):
    field: RequestField
    type: Type
    name: str = ""
    segments: tuple[int, int] = (0, 0)


_FIELDS: Final = {
    "net.protocol": _Field(RequestField.FIELD_PROTOCOL, "string"),
    "tls.sni": _Field(RequestField.FIELD_SNI, "string"),
    "http.method": _Field(RequestField.FIELD_METHOD, "string"),
    "http.host": _Field(RequestField.FIELD_HOST, "string"),
    "http.path": _Field(RequestField.FIELD_PATH, "string"),
    "http.path.segments.len": _Field(RequestField.FIELD_SEGMENT_COUNT, "int"),
    "net.src.ip": _Field(RequestField.FIELD_SOURCE_IP, "ip"),
    "net.src.port": _Field(RequestField.FIELD_SOURCE_PORT, "int"),
    "net.dst.port": _Field(RequestField.FIELD_DESTINATION_PORT, "int"),
    "net.port": _Field(RequestField.FIELD_DESTINATION_PORT, "int"),
}
_SEGMENTS: Final = re.compile(r"http\.path\.segments\.([0-9]{1,4})(?:_([0-9]{1,4}))?")
_OPERATORS: Final = {
    "==": Operator.OPERATOR_EQUAL,
    "!=": Operator.OPERATOR_NOT_EQUAL,
    "^=": Operator.OPERATOR_PREFIX,
    "=^": Operator.OPERATOR_SUFFIX,
    "~": Operator.OPERATOR_REGEX,
    "contains": Operator.OPERATOR_CONTAINS,
    "<": Operator.OPERATOR_LESS,
    "<=": Operator.OPERATOR_LESS_EQUAL,
    ">": Operator.OPERATOR_GREATER,
    ">=": Operator.OPERATOR_GREATER_EQUAL,
    "in": Operator.OPERATOR_IN,
    "not in": Operator.OPERATOR_NOT_IN,
}
_ALLOWED: Final[dict[Type, tuple[str, ...]]] = {
    "string": ("==", "!=", "~", "^=", "=^", "contains"),
    "int": ("==", "!=", ">", ">=", "<", "<="),
    "ip": ("==", "!=", "in", "not in"),
}
_LITERALS: Final[dict[Type, str]] = {
    "string": 'a string such as "a" or r#"a"#',
    "int": "a number",
    "ip": "an address",
}
_ESCAPES: Final = {'"': '"', "\\": "\\", "n": "\n", "r": "\r", "t": "\t"}

_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<raw>r\#"(?:.*?)"\#)
  | (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<word>(?!r\#")[A-Za-z][A-Za-z0-9_.]*(?![0-9A-Za-z_.:]))
  | (?P<ip>[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]{1,3})?
         |(?=[0-9A-Fa-f]*:)[0-9A-Fa-f:]+(?::[0-9]{1,3}(?:\.[0-9]{1,3}){3})?(?:/[0-9]{1,3})?)
  | (?P<int>-?(?:0x[0-9A-Fa-f]+|[0-9]+))
  | (?P<sign>&&|\|\||==|!=|\^=|=\^|>=|<=|[~<>!()])
  | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse_expression(text: str) -> Tree:
    """The tree of an expression.

    Raises:
        ExpressionError: with the place.
    """
    if len(text.encode()) > LIMIT_BYTES:
        raise ExpressionError(0, f"an expression has at most {LIMIT_BYTES} bytes")
    parser = _Parser(_tokens(text))
    tree = parser.expression(0)
    if parser.here.kind != "end":
        raise ExpressionError(parser.here.at, f"expected && or || or the end, not '{parser.here.text}'")
    return tree


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while not tokens or tokens[-1].kind != "end":
        found = _TOKEN.match(text, at)
        if found is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            if text[at] == '"' or text.startswith('r#"', at):
                raise ExpressionError(at, "this string does not end")
            raise ExpressionError(at, f"'{text[at]}' has no meaning here")
        kind = found.lastgroup or ""
        tokens.append(_Token(kind, found[kind], found.start(kind)))
        at = found.end()
    return tokens


class _Parser:
    """By recursive descent, no deeper than `DEPTH_LIMIT`."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0

    @property
    def here(self) -> _Token:
        return self._tokens[self._place]

    def _take(self) -> _Token:
        token = self.here
        self._place += token.kind != "end"
        return token

    def _close(self) -> None:
        if self.here.text != ")" or self.here.kind != "sign":
            self._refuse("a closing parenthesis")
        self._take()

    def _refuse(self, expected: str) -> NoReturn:
        shown = f"'{self.here.text}'" if self.here.text else "the end"
        raise ExpressionError(self.here.at, f"expected {expected}, not {shown}")

    def expression(self, depth: int) -> Tree:
        if depth > DEPTH_LIMIT:
            raise ExpressionError(self.here.at, f"more than {DEPTH_LIMIT} levels of parentheses")
        parts = [self._term(depth)]
        sign = self.here.text
        while self.here.text in ("&&", "||") and self.here.kind == "sign":
            if self.here.text != sign:
                raise ExpressionError(
                    self.here.at, "put parentheses around the && or the || part: both stand here side by side"
                )
            self._take()
            parts.append(self._term(depth))
        if len(parts) == 1:
            return parts[0]
        return All(parts) if sign == "&&" else Either(parts)

    def _term(self, depth: int) -> Tree:
        negated = False
        while self.here == _Token("sign", "!", self.here.at):
            self._take()
            negated = not negated
        if self.here == _Token("sign", "(", self.here.at):
            self._take()
            tree = self.expression(depth + 1)
            self._close()
        else:
            tree = self._comparison()
        return Not(tree) if negated else tree

    def _comparison(self) -> Test:
        flags, field = self._operand(0)
        sign = self._take()
        operator = sign.text
        if operator == "not" and self.here.text == "in":
            self._take()
            operator = "not in"
        if operator not in _OPERATORS or sign.kind not in ("sign", "word"):
            self._place -= sign.kind != "end"
            self._refuse("an operator")
        if operator not in _ALLOWED[field.type]:
            listed = ", ".join(_ALLOWED[field.type])
            raise ExpressionError(sign.at, f"'{operator}' does not compare a {field.type}; use {listed}")
        return _comparison(field, flags, operator, self._take())

    def _operand(self, flags: int) -> tuple[int, _Field]:
        token = self._take()
        if token.kind != "word":
            self._place -= token.kind != "end"
            self._refuse("a field such as http.path")
        if token.text in ("lower", "any") and self.here.text == "(":
            self._take()
            flags, field = self._operand(flags)
            self._close()
            if token.text == "any":
                return flags | InstructionFlag.INSTRUCTION_ANY, field
            if field.type != "string":
                raise ExpressionError(token.at, "lower() takes a string")
            return flags | InstructionFlag.INSTRUCTION_LOWER, field
        return flags, _field_of(token)


def _field_of(token: _Token) -> _Field:
    name = token.text
    if name in _FIELDS:
        return _FIELDS[name]
    for start, field in (
        ("http.headers.", RequestField.FIELD_HEADER),
        ("http.queries.", RequestField.FIELD_QUERY),
    ):
        if name.startswith(start) and len(name) > len(start):
            name = name[len(start) :]
            if field == RequestField.FIELD_HEADER:
                if name != name.lower():
                    raise ExpressionError(token.at, "write the name of a header in lower case, - as _")
                name = name.replace("_", "-")
            return _Field(field, "string", name)
    if found := _SEGMENTS.fullmatch(name):
        first = int(found[1])
        last = first if found[2] is None else int(found[2])
        if last < first or (found[2] is not None and last == first):
            raise ExpressionError(token.at, f"{name}: the second number must be larger than the first")
        return _Field(RequestField.FIELD_SEGMENTS, "string", segments=(first, last))
    if name == "net.dst.ip":
        raise ExpressionError(token.at, "fastgw does not serve net.dst.ip yet")
    raise ExpressionError(token.at, f"there is no field '{name}'")


def _comparison(field: _Field, flags: int, operator: str, literal: _Token) -> Test:
    name, kind = field.name.encode(), _OPERATORS[operator]
    if field.field == RequestField.FIELD_HEADER:
        flags |= InstructionFlag.INSTRUCTION_DASHES
    if field.type == "int":
        if literal.kind != "int":
            _refuse_literal(field, literal)
        number = _number_of(literal)
        return Test(kind, field.field, flags, name, number=number)
    if field.type == "ip":
        packed, bits, family = _network_of(literal, is_network="in" in operator)
        return Test(kind, field.field, flags, name, text=packed, number=bits, family=family)
    if literal.kind not in ("string", "raw"):
        _refuse_literal(field, literal)
    text = _text_of(literal)
    if operator == "~":
        fault = regex_fault(text)
        if fault is not None:
            raise ExpressionError(literal.at, f"invalid regex: {fault}")
    elif field.field == RequestField.FIELD_HOST:
        # Hosts are compared in lower case and without brackets.
        text = text.lower()
        if operator == "==" and text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
    return Test(kind, field.field, flags, name, text=text.encode(), segments=field.segments)


def _refuse_literal(field: _Field, literal: _Token) -> NoReturn:
    shown = f"'{literal.text}'" if literal.text else "the end"
    raise ExpressionError(literal.at, f"expected {_LITERALS[field.type]}, not {shown}")


def _number_of(literal: _Token) -> int:
    digits = literal.text.lstrip("-")
    base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") and len(digits) > 1 else 10
    try:
        number = int(digits.removeprefix("0x"), base)
    except ValueError:
        raise ExpressionError(literal.at, f"'{literal.text}' is no octal number") from None
    number = -number if literal.text.startswith("-") else number
    if not -(2**63) <= number < 2**63:
        raise ExpressionError(literal.at, f"'{literal.text}' does not fit into 64 bits")
    return number


def _network_of(literal: _Token, *, is_network: bool) -> tuple[bytes, int, int]:
    """(16 bytes, bits that count, 4 or 6)."""
    if literal.kind != "ip":
        raise ExpressionError(literal.at, f"expected an address, not '{literal.text or 'the end'}'")
    if is_network != ("/" in literal.text):
        wanted = "a network such as 10.0.0.0/8" if is_network else "one address; use in for a network"
        raise ExpressionError(literal.at, f"expected {wanted}")
    try:
        network = ipaddress.ip_network(literal.text)
    except ValueError as error:
        raise ExpressionError(literal.at, str(error)) from None
    return network.network_address.packed.ljust(16, b"\0"), network.prefixlen, network.version


def _text_of(literal: _Token) -> str:
    if literal.kind == "raw":
        return literal.text[3:-2]
    inner = literal.text[1:-1]
    for found in re.finditer(r"\\(.)", inner, re.DOTALL):
        if found[1] not in _ESCAPES:
            raise ExpressionError(
                literal.at + 1 + found.start(), f"'\\{found[1]}' is no escape; write r#\"...\"# for raw text"
            )
    return re.sub(r"\\(.)", lambda found: _ESCAPES[found[1]], inner, flags=re.DOTALL)
