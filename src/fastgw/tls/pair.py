"""A certificate with its key, checked: plain data that travels between processes.

It stands apart from what reads and checks pairs (`keypair.py`), so that workers, which are given checked
ones, need not load a library for X.509.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastgw.model.pem_memory import memory_file


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """A certificate, what follows it in its file, and its key; checked."""

    certificate_pem: bytes
    """The certificate first, then any intermediates."""
    key_pem: bytes
    der: bytes
    """The certificate alone."""
    not_after: dt.datetime
    warnings: tuple[str, ...]
    """One line each, for the log of the process that uses the pair."""

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate in DER."""
        return hashlib.sha256(self.der).digest()

    @contextmanager
    def as_paths(self) -> Iterator[tuple[str, str]]:
        """Paths of the certificate and the key for `SSLContext.load_cert_chain`, which reads nothing else.

        They lead to memory, not to a disk: what was checked is what is loaded, and a key that came through
        the environment is never written down.
        """
        with memory_file(self.certificate_pem) as certificate, memory_file(self.key_pem) as key:
            yield certificate, key

    def __repr__(self) -> str:
        return f"<KeyPair {self.fingerprint.hex()[:16]} until {self.not_after:%Y-%m-%d}>"
