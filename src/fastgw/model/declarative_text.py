"""The text of declarative files: YAML or JSON into plain data, and the lines on which things stand.

A key that stands twice in one mapping is a fault, not a silent choice. Dates are strings, as in Kong. Lines
are looked for only when there are faults to tell: the fast parser forgets them, and a second reading finds
them.

The one complication: aliases of YAML cost nothing while they are read, and everything to whoever walks them
or writes them out. So what they stand for is counted, and has a limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import yaml

from fastgw.errors import DeclarativeError

Path = tuple[str | int, ...]
"""Where something stands: `("services", 0, "host")`."""

_FILE: Final = "the file"
_LINES_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Larger texts are not read a second time: faults in them are told without lines."""

ADDED_LIMIT: Final = 500_000
"""What aliases may stand for, beyond what is written: values, a long text counting as several."""
_TEXT_OF_A_VALUE: Final = 100
_ANCHOR: Final = re.compile(rb"(?:\A|[\s\[{,:?-])&[^\s&]")


def shown(path: Path) -> str:
    """*path* as people read it: `services[0].host`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text or _FILE


class _Loader(yaml.CSafeLoader):
    """PyYAML's safe loader in C, for which a key that stands twice is an error, and no string is a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the class above
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def parse_text(content: bytes, source: str, is_json: bool) -> Any:
    try:
        if is_json:
            return json.loads(content, object_pairs_hook=_unique_pairs)
        document = yaml.load(content, _Loader)  # a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else _FILE
        raise _unreadable(source, where, f"not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise _unreadable(source, _FILE, f"not YAML: {' '.join(str(error).split())}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _unreadable(source, where, f"not JSON: {error.msg}") from None
    except RecursionError:
        raise _unreadable(source, _FILE, "nested too deeply") from None
    except ValueError as error:  # bad UTF-8 in JSON, a number or date that cannot be, a key that stands twice
        raise _unreadable(source, _FILE, f"not {'JSON' if is_json else 'YAML'}: {error}") from None
    if _ANCHOR.search(content) and added_by_aliases(document, source) > ADDED_LIMIT:
        fault = f"the aliases in it stand for more than {ADDED_LIMIT} values: write fewer of them"
        raise _unreadable(source, _FILE, fault)
    return document


def _unreadable(source: str, where: str, fault: str) -> DeclarativeError:
    told = fault if where == _FILE else f"{where}: {fault}"
    return DeclarativeError(source, [(where, fault)], {"error": told})


def added_by_aliases(document: Any, source: str = "") -> int:
    """How much *document* would grow if each alias were written out, in values.

    Raises:
        DeclarativeError: an alias stands in what it names: there is no end to that.
    """
    sizes: dict[int, int] = {}  # by identity: what each list, mapping and long text comes to, written out
    written = 0
    waiting = [document]
    around: set[int] = set()  # the lists and mappings that what is looked at stands in
    while waiting:
        value = waiting[-1]
        if id(value) in sizes or not isinstance(value, list | dict):
            waiting.pop()
            continue
        items = value if isinstance(value, list) else value.values()
        if id(value) not in around:  # met for the first time: what is in it is measured before it
            around.add(id(value))
            for item in items:
                if id(item) in around:
                    raise _unreadable(source, _FILE, "an alias stands in what it names")
                waiting.append(item)
            continue
        waiting.pop()
        around.discard(id(value))
        total = own = 1
        for item in items:
            size = sizes.get(id(item))
            if size is None:
                size = 1
                if isinstance(item, str) and len(item) > _TEXT_OF_A_VALUE:
                    size = sizes[id(item)] = len(item) // _TEXT_OF_A_VALUE
                own += size
            total += size
        sizes[id(value)] = total
        written += own
    return sizes.get(id(document), written) - written


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key '{key}' stands twice")
            seen.add(key)
    return mapping


def find_lines(content: bytes, paths: Iterable[Path]) -> dict[Path, int]:
    """The line, from 1, of each of *paths*; of a missing field its parent's, unless that is the file."""
    wanted = list(paths)
    if not wanted or len(content) > _LINES_LIMIT_BYTES:
        return {}
    try:
        # Nearly all JSON is YAML too.
        root = yaml.compose(content, yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    lines = {path: _line(root, path) for path in wanted if root is not None}
    return {path: line for path, line in lines.items() if line is not None}


def _line(node: yaml.Node, path: Sequence[str | int]) -> int | None:
    line: int | None = None
    for step in path:
        following: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value == step:
                    line, following = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            following = node.value[step]
            line = following.start_mark.line + 1
        if following is None:
            return line
        node = following
    return line
