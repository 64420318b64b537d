"""Whose configurations this data plane takes: signatures checked before use, and kept beside what is on disk.

Contract. Where signing keys are known (from cluster_signing_keys, or told when the node joined), nothing is
applied, and nothing served from disk, but what one of them signed; where none are, nothing is checked. What
was verified is written to PREFIX/dp/signatures.json before the generation is decided, a few of the newest,
and is looked up by digest: so the images need no room for it, and none is ever decided without. Keys change
while a configuration stays; so the control plane sends its new signatures along, and those are kept as well,
even before their key is believed: whatever stands in the file is verified when it is used.

The one complication: a signature is of the configuration, not of the image that was compiled of it, and who
can write the one file can write the other. So a data plane that checks signatures compiles anew at its start
what the disk holds, and the compiler checks the digest; unless the files are encrypted, which proves that who
knows the secret has written them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from fastgw.dp.incoming import IncomingSnapshot
from fastgw.errors import SettingsError, SignatureError
from fastgw.settings import Settings
from fastgw.wire.signature import Signature, TrustedKeys, parse_public

SIGNATURES_FILE: Final = "signatures.json"
KEPT: Final = 8
_LIMIT_BYTES: Final = 64 * 1024


class Kept(msgspec.Struct, frozen=True):
    """What was verified."""

    cluster_id: str
    version: int
    digest: str
    signatures: list[Signature]


_decode: Final = msgspec.json.Decoder(list[Kept]).decode


class Belief:
    """The signatures of one data plane.

    Args:
        directory: PREFIX/dp.
    """

    def __init__(self, directory: Path) -> None:
        self.keys: Callable[[], TrustedKeys] = lambda: TrustedKeys({})
        """Gives the keys that are believed, at each check; none: any configuration is taken."""
        self._path = directory / SIGNATURES_FILE

    @property
    def is_needed(self) -> bool:
        """Whether only signed configurations are taken."""
        return bool(self.keys())

    def check(self, incoming: IncomingSnapshot) -> None:
        """Insist that *incoming* is signed by a key that is believed. Raises SignatureError."""
        keys = self.keys()
        if keys:
            keys.verify(incoming.cluster_id, incoming.version, incoming.digest, incoming.signatures)

    def check_stored(self, digest: str) -> None:
        """The same for a configuration on disk. Raises SignatureError."""
        keys = self.keys()
        if not keys:
            return
        error = SignatureError("its signature is not kept, and this data plane takes only signed ones")
        for kept in self._read():
            if kept.digest == digest:
                try:
                    _verify(keys, kept)
                except SignatureError as failed:
                    error = failed
                else:
                    return
        raise error

    def keep(self, incoming: IncomingSnapshot) -> None:
        """Keep the signature of what is about to be decided; blocks.

        Raises:
            OSError: it could not be written.
        """
        if incoming.signatures:
            mine = _kept_of(incoming)
            self._write([mine, *(one for one in self._read() if one.digest != mine.digest)])

    def keep_more(self, incoming: IncomingSnapshot) -> None:
        """Keep other signatures of what is served already; blocks. Raises as `keep` does."""
        mine, kept = _kept_of(incoming), self._read()
        if mine in kept:
            return
        try:
            _verify(self.keys(), mine)
        except SignatureError:
            # By keys that are not believed yet, as it seems: what is believed now has to stay until they are.
            same = [one for one in kept if one.digest == mine.digest]
            others = [one for one in kept if one.digest != mine.digest]
            self._write([*same[:1], mine, *others])
        else:
            self.keep(incoming)

    def _write(self, kept: list[Kept]) -> None:
        content = msgspec.json.encode(kept[:KEPT])
        fresh = self._path.with_name(f"{self._path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(fresh, self._path)
        except OSError:
            fresh.unlink()  # the disk may be full: leave what room there is
            raise

    def _read(self) -> list[Kept]:
        try:
            with open(self._path, "rb") as file:
                return _decode(file.read(_LIMIT_BYTES))
        except (FileNotFoundError, msgspec.DecodeError):
            return []


def _kept_of(incoming: IncomingSnapshot) -> Kept:
    return Kept(incoming.cluster_id, incoming.version, incoming.digest, list(incoming.signatures))


def _verify(keys: TrustedKeys, kept: Kept) -> None:
    keys.verify(kept.cluster_id, kept.version, kept.digest, kept.signatures)


def keys_of_settings(settings: Settings) -> TrustedKeys:
    """The keys that cluster_signing_keys names: their texts, or the path of a file with one a line.

    Raises:
        SettingsError: one is no key, or the file cannot be read.
    """
    value = settings.cluster_signing_keys.strip()
    if not value:
        return TrustedKeys({})
    if not value.startswith("ed25519:"):
        try:
            value = Path(value).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = (
                os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else "no text"
            )
            raise SettingsError(f"cluster_signing_keys {value}: cannot be read: {reason}") from None
    lines = [line.strip() for line in value.replace(",", "\n").splitlines()]
    try:
        return TrustedKeys.of(parse_public(line) for line in lines if line and not line.startswith("#"))
    except ValueError as error:
        raise SettingsError(f"cluster_signing_keys: {error}") from None
