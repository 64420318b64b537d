"""The text of declarative files: YAML or JSON into plain data, and the lines on which things stand.

A key that stands twice in one mapping is a fault, not a silent choice. Lines are looked for only when there
are faults to tell: the fast parser forgets them, and a second reading finds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import yaml

from fastgw.errors import DeclarativeError

Path = tuple[str | int, ...]
"""Where something stands: `("services", 0, "host")`."""

_LINES_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Larger texts are not read a second time: faults in them are told without lines."""


def shown(path: Path) -> str:
    """*path* as people read it: `services[0].host`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text or "the file"


class _Loader(yaml.CSafeLoader):
    """PyYAML's safe loader in C, for which a key that stands twice is an error."""

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
        return yaml.load(content, _Loader)  # a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "the file"
        raise DeclarativeError(source, [(where, f"not YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise DeclarativeError(source, [("the file", f"not YAML: {' '.join(str(error).split())}")]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DeclarativeError(source, [(where, f"not JSON: {error.msg}")]) from None
    except RecursionError:
        raise DeclarativeError(source, [("the file", "nested too deeply")]) from None
    except ValueError as error:  # bad UTF-8 in JSON, a number or date that cannot be, a key that stands twice
        raise DeclarativeError(source, [("the file", str(error))]) from None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"not JSON: the key '{key}' stands twice")
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
