"""PEM text as a file in memory: OpenSSL, as Python's ssl has it, loads keys from paths alone.

What was checked is what is loaded, and a key that came over the network is never written down.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """Yield a path of *content*, good for this process and until the block ends."""
    fd = os.memfd_create("fastgw-pem", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def openssl_fault(certificate: bytes, key: bytes) -> str | None:
    """Why OpenSSL would not present *certificate* (and what follows it) with *key*; None: it would.

    It has rules of its own beyond grammar: a public key, a key of 1,024 bits or a digest of MD5 parse well.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with memory_file(certificate) as certificate_path, memory_file(key) as key_path:
        try:
            context.load_cert_chain(certificate_path, key_path, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None)
            return reason.replace("_", " ").lower() if reason else str(error)
    return None


def _no_password() -> str:
    # Without it, OpenSSL would ask on the terminal.
    raise ValueError("the key is encrypted; give it without a passphrase")
