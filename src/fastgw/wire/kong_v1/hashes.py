"""Kong's hashes of a configuration: one of the whole table and one of each of five sections.

Contract. The values are Kong's, byte for byte, its defect included: algorithm B leaves every hundredth
element beyond the first hundred of a long array out. So B only ever names what an old control plane sent
without a hash; what is pushed from here bears the values of C, which no data plane verifies.

    text      null "/null/", a string itself, a number as C's "%.14g", "true", "false", an empty array or
              object "{}"; keys in the order of their bytes
    B (2.8)   parts joined by ";", folded into their MD5 where they are many or long
    C (3.x)   one buffer that is walked into; on entry to any value it is folded once it is above 1,000,000
              bytes

The one complication is the size: C is made of 100,000 routes at each push. An element that cannot reach the
fold is written in one piece; only one that may is walked into.

Source: kong/clustering/init.lua of 2.8.1 (B), kong/clustering/config_helper.lua of 3.x (C).
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import md5
from typing import Any, Final, NamedTuple

ZERO_HASH: Final = "0" * 32
"""Of a section that is absent, and of a data plane with no configuration."""
HASH_LENGTH: Final = 32
SECTIONS: Final = ("routes", "services", "plugins", "upstreams", "targets")
"""In the order in which their hashes enter that of the whole."""

_FOLD_ABOVE_BYTES: Final = 1_000_000
_FEW: Final = 5


class ConfigHashes(NamedTuple):
    """32 hex digits each."""

    config: str
    routes: str = ZERO_HASH
    services: str = ZERO_HASH
    plugins: str = ZERO_HASH
    upstreams: str = ZERO_HASH
    targets: str = ZERO_HASH


def hash_b(table: Mapping[str, Any]) -> ConfigHashes:
    """The hashes that Kong 2.8.1 to 2.8.5 give to a `config_table`."""
    sections = [_md5(_text_b(table[name])) if name in table else ZERO_HASH for name in SECTIONS]
    rest = {name: value for name, value in table.items() if name not in SECTIONS}
    return ConfigHashes(_md5(_text_b(rest) + "".join(sections).encode()), *sections)


def hash_b_whole(table: Mapping[str, Any]) -> str:
    """The one hash that Kong 2.8.0 gives to a `config_table`."""
    return _md5(_text_b(table))


def hash_c(table: Mapping[str, Any]) -> ConfigHashes:
    """The hashes that Kong 3.x gives to a `config_table`."""
    sections = [hash_value_c(table[name]) if name in table else ZERO_HASH for name in SECTIONS]
    rest = {name: value for name, value in table.items() if name not in SECTIONS}
    return ConfigHashes(_md5(("".join(sections) + hash_value_c(rest)).encode()), *sections)


def hash_value_b(value: Any) -> str:
    """Algorithm B of any one value."""
    return _md5(_text_b(value))


def hash_value_c(value: Any) -> str:
    """Algorithm C of any one value."""
    buffer = _Buffer()
    _walk_c(value, buffer)
    return buffer.hexdigest()


def _md5(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()


def _md5_raw(data: bytes) -> bytes:
    return md5(data, usedforsecurity=False).digest()


def _scalar(value: Any) -> str:
    if value is None:
        return "/null/"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    # LuaJIT knows doubles only.
    return f"{float(value):.14g}"


def _text_b(value: Any) -> bytes:
    if not isinstance(value, list | dict):
        return _scalar(value).encode()
    if not value:
        return b"{}"
    if isinstance(value, dict):
        text = b";".join([key.encode() + b":" + _text_b(value[key]) for key in sorted(value)])
        return _md5_raw(text) if len(text) > 512 else text
    if len(value) <= _FEW:
        return b";".join(map(_text_b, value))
    parts: list[bytes] = []
    for number, item in enumerate(value, 1):
        parts.append(_text_b(item))
        if number % 100 == 0:
            # From the second time on there are 101 parts: Kong's defect drops the last.
            parts = [_md5_raw(b";".join(parts[:100]))]
    return _md5_raw(b";".join(parts))


class _Buffer:
    """What C has written so far."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []

    def add(self, text: bytes) -> None:
        self._parts.append(text)
        self.size += len(text)

    def fold(self) -> None:
        self._parts = [_md5_raw(b"".join(self._parts))]
        self.size = len(self._parts[0])

    def hexdigest(self) -> str:
        return _md5(b"".join(self._parts))


def _walk_c(value: Any, buffer: _Buffer) -> None:
    if buffer.size > _FOLD_ABOVE_BYTES:
        buffer.fold()
    _write_c(value, buffer)


def _write_c(value: Any, buffer: _Buffer) -> None:
    """A value that has been entered."""
    if not isinstance(value, list | dict):
        buffer.add(_scalar(value).encode())
    elif not value:
        buffer.add(b"{}")
    elif isinstance(value, dict):
        for key in sorted(value):
            buffer.add(f"{key}:".encode())
            _walk_c(value[key], buffer)
            buffer.add(b";")
    elif len(value) <= _FEW:
        for number, item in enumerate(value):
            if number:
                buffer.add(b";")
            _walk_c(item, buffer)
    else:
        for item in value:
            _add_element(item, buffer)
            buffer.add(b";")


def _add_element(value: Any, buffer: _Buffer) -> None:
    """The same as `_walk_c`, in one piece if nothing in it can meet a buffer that is to be folded."""
    if buffer.size > _FOLD_ABOVE_BYTES:
        buffer.fold()
    text = _text_c(value).encode()
    if buffer.size + len(text) <= _FOLD_ABOVE_BYTES:
        buffer.add(text)
    else:
        _write_c(value, buffer)


def _text_c(value: Any) -> str:
    if isinstance(value, dict):
        if not value:
            return "{}"
        return "".join([f"{key}:{_text_c(value[key])};" for key in sorted(value)])
    if isinstance(value, list):
        if not value:
            return "{}"
        text = ";".join(map(_text_c, value))
        return text if len(value) <= _FEW else f"{text};"
    return _scalar(value)
