"""Files encrypted at rest, with a key that stands elsewhere: in the environment, or in a file of its own.

    "FGWSEAL1", 16 bytes of salt, then pieces of 1 MiB, each sealed with AES-256-GCM (16 bytes more)

Contract. The key of a file is derived (HKDF with SHA-256) from the secret and the file's own salt, and the
nonce of a piece is its number: so no nonce is used twice under a key. A piece cannot be changed, moved or
left out, and the last one is known as such: a file that is cut off, damaged, of another secret or not
encrypted at all is refused, never read in part.

Source: NIST SP 800-38D; RFC 5869.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fastgw.errors import ImageError, SettingsError

MAGIC: Final = b"FGWSEAL1"
LEAST_SECRET: Final = 32
"""Characters of the secret: it is a key, not a pass phrase, and not made stronger."""
_SALT_BYTES: Final = 16
_PIECE_BYTES: Final = 1 << 20
_TAG_BYTES: Final = 16
_INFO: Final = b"fastgw stored configuration 1"


class Seal:
    """Encrypts and decrypts files with one secret.

    Raises:
        SettingsError: the secret is too short.
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < LEAST_SECRET:
            raise SettingsError(
                f"store_secret: {len(secret)} characters are too few, at least {LEAST_SECRET} are needed: "
                "'openssl rand -hex 32' makes one"
            )
        self._secret = secret.encode()

    def write(self, source_fd: int, target_fd: int) -> None:
        """Encrypt all of *source_fd* to *target_fd*. Raises OSError."""
        salt = os.urandom(_SALT_BYTES)
        cipher = self._cipher(salt)
        _write_all(target_fd, MAGIC + salt)
        size, place, number = os.fstat(source_fd).st_size, 0, 0
        while True:
            piece = os.pread(source_fd, _PIECE_BYTES, place)
            place += len(piece)
            is_last = place >= size or not piece
            _write_all(target_fd, cipher.encrypt(_nonce(number), piece, _about(is_last)))
            if is_last:
                return
            number += 1

    def read(self, source_fd: int, target_fd: int) -> None:
        """Decrypt all of *source_fd* to *target_fd*.

        Raises:
            ImageError: it is not what this secret encrypted.
            OSError: as reading and writing do.
        """
        head = os.pread(source_fd, len(MAGIC) + _SALT_BYTES, 0)
        if not head.startswith(MAGIC):
            raise ImageError("it is not encrypted, and store_secret is set")
        cipher = self._cipher(head[len(MAGIC) :])
        size, place, number = os.fstat(source_fd).st_size, len(head), 0
        while True:
            sealed = os.pread(source_fd, _PIECE_BYTES + _TAG_BYTES, place)
            place += len(sealed)
            is_last = place >= size
            try:
                piece = cipher.decrypt(_nonce(number), sealed, _about(is_last))
            except InvalidTag:
                raise ImageError("it is damaged or cut off, or store_secret is another one") from None
            _write_all(target_fd, piece)
            if is_last:
                return
            number += 1

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(HKDF(SHA256(), length=32, salt=salt, info=_INFO).derive(self._secret))


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _about(is_last: bool) -> bytes:
    return b"last" if is_last else b"more"


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
