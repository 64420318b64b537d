"""The certificates of the proxy's and the Admin API's ssl listeners: from the settings, or made at the start.

Contract. With ssl_cert and ssl_cert_key (admin_ssl_cert and admin_ssl_cert_key) given, those are loaded, and
nothing is made. Without, a self-signed EC and an RSA pair stand in PREFIX/ssl, made at the first start (keys
0600) and kept: clients that have pinned one meet it again. A pair of ours that is gone, damaged or expired is
made anew.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from fastgw.errors import CertificateError
from fastgw.settings import Settings
from fastgw.tls.generate import generate_placeholder_pair
from fastgw.tls.keypair import KeyPair, load_key_pair
from fastgw.tls.server import INTERMEDIATE_CIPHERS, Policy, ProxyTls

_KINDS: Final[tuple[Literal["ec", "rsa"], ...]] = ("ec", "rsa")
_VERSIONS: Final = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def load_proxy_tls(settings: Settings) -> ProxyTls:
    """Read (or make) what the ssl listeners of proxy_listen present.

    Raises:
        CertificateError: one clause for each fault of a given pair; or a pair cannot be written.
    """
    if settings.ssl_cert:
        pairs = _load_given(settings.ssl_cert, settings.ssl_cert_key, "ssl_cert")
    else:
        pairs = [_load_or_make(*_made_paths(settings, "default", kind), kind, "ssl_cert") for kind in _KINDS]
    return ProxyTls(policy_of(settings), tuple(pairs))


def load_admin_pairs(settings: Settings) -> list[KeyPair]:
    """Read (or make) what the ssl listeners of admin_listen present.

    Raises:
        CertificateError: as `load_proxy_tls`.
    """
    name = "admin_ssl_cert"
    if settings.admin_ssl_cert:
        return _load_given(settings.admin_ssl_cert, settings.admin_ssl_cert_key, name)
    return [_load_or_make(*_made_paths(settings, "admin-default", kind), kind, name) for kind in _KINDS]


def admin_certificates(settings: Settings) -> list[bytes]:
    """The certificates (PEM) by which a client on this machine knows the Admin API; makes none.

    Raises:
        CertificateError: one of them, or its key, cannot be read.
    """
    if settings.admin_ssl_cert:
        return [pair.certificate_pem for pair in load_admin_pairs(settings)]
    found = []
    for kind in _KINDS:
        certificate, _ = _made_paths(settings, "admin-default", kind)
        try:
            found.append(certificate.read_bytes())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise CertificateError(f"{certificate}: {reason}") from None
    return found


def _made_paths(settings: Settings, stem: str, kind: str) -> tuple[Path, Path]:
    directory = settings.prefix / "ssl"
    return directory / f"{stem}-{kind}.crt", directory / f"{stem}-{kind}.key"


def policy_of(settings: Settings) -> Policy:
    """The policy of ssl_cipher_suite. Source: proxying reference §6.2."""
    tickets = settings.ssl_session_tickets
    if settings.ssl_cipher_suite == "modern":
        return Policy(minimum=ssl.TLSVersion.TLSv1_3, gives_tickets=tickets)
    if settings.ssl_cipher_suite == "intermediate":
        return Policy(gives_tickets=tickets)
    versions = [_VERSIONS[name] for name in settings.ssl_protocols]
    return Policy(
        minimum=min(versions),
        maximum=max(versions),
        ciphers=settings.ssl_ciphers or INTERMEDIATE_CIPHERS,
        prefers_own_order=settings.ssl_prefer_server_ciphers,
        gives_tickets=tickets,
    )


def _load_given(certificates: Sequence[str], keys: Sequence[str], name: str) -> list[KeyPair]:
    pairs: list[KeyPair] = []
    faults: list[str] = []
    for certificate, key in zip(certificates, keys, strict=True):
        try:
            pairs.append(
                load_key_pair(
                    certificate,
                    key,
                    certificate_name=name,
                    key_name=f"{name}_key",
                    must_be_current=False,
                )
            )
        except CertificateError as error:
            faults.append(str(error))
    if faults:
        raise CertificateError("; ".join(faults))
    return pairs


def _load_or_make(certificate: Path, key: Path, kind: Literal["ec", "rsa"], name: str) -> KeyPair:
    if certificate.exists() and key.exists():
        try:
            return _load_made(certificate, key)
        except CertificateError:
            pass  # ours to mend
    made = generate_placeholder_pair(kind)
    try:
        certificate.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(key, made.key_pem, 0o600)
        _write(certificate, made.certificate_pem, 0o644)
    except OSError as error:
        raise CertificateError(
            f"the default certificate cannot be written to {certificate.parent}: {error.strerror}; make the "
            f"directory writable, or name {name} and {name}_key"
        ) from None
    return _load_made(certificate, key)


def _load_made(certificate: Path, key: Path) -> KeyPair:
    return load_key_pair(
        str(certificate), str(key), certificate_name="default certificate", key_name="default key"
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    temporary.rename(path)
