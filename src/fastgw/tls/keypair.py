"""Reading a certificate and its private key, with every fault named.

Contract. Each of the two is given as a path, as PEM text, or as base64 of PEM text. What is returned can
serve: the key is readable and belongs to the certificate, and the certificate is valid now (a warning tells
where it need not be). What cannot serve
is told in one clause per fault, with the property, the file and the reason. Contents of keys never stand in a
message.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from fastgw.errors import CertificateError
from fastgw.tls.pair import KeyPair

__all__ = ["FILE_LIMIT_BYTES", "KeyPair", "load_key_pair", "parse_key_pair"]

FILE_LIMIT_BYTES: Final = 1024 * 1024


class _Given(NamedTuple):
    """The content of one of the two, and how a message calls it."""

    name: str
    content: bytes
    path: str | None


def load_key_pair(
    certificate: str,
    key: str,
    *,
    certificate_name: str = "cluster_cert",
    key_name: str = "cluster_cert_key",
    must_be_current: bool = True,
    now: dt.datetime | None = None,
) -> KeyPair:
    """Read and check a certificate and its key.

    Args:
        certificate: path, PEM text, or base64 of PEM text; so is *key*.
        certificate_name: the property that it comes from, for messages; so is *key_name*.
        must_be_current: whether a certificate that has expired, or is not valid yet, is a fault; else it
            is a warning, since clients that do not care are better off served.
        now: the moment at which the certificate must be valid.

    Raises:
        CertificateError: one clause for each fault of either.
    """
    faults: list[str] = []
    given_certificate = _read(certificate, certificate_name, faults)
    given_key = _read(key, key_name, faults)
    return _check(given_certificate, given_key, faults, must_be_current=must_be_current, now=now)


def parse_key_pair(certificate: str, key: str, *, certificate_name: str, key_name: str) -> KeyPair:
    """Check a certificate and its key that are given as PEM text, whatever they look like.

    One that has expired is a warning of the pair.

    Raises:
        CertificateError: one clause for each fault of either.
    """
    given = (_Given(certificate_name, certificate.encode(), None), _Given(key_name, key.encode(), None))
    return _check(*given, [], must_be_current=False, now=None)


def _check(
    given_certificate: _Given | None,
    given_key: _Given | None,
    faults: list[str],
    *,
    must_be_current: bool,
    now: dt.datetime | None,
) -> KeyPair:
    """Make a pair of what could be read; *faults* are those that were found before."""
    warnings: list[str] = []
    parsed_certificate = parsed_key = None
    if given_certificate is not None:
        parsed_certificate = _parse_certificate(given_certificate, faults)
        if parsed_certificate is not None:
            _check_dates(
                given_certificate,
                parsed_certificate,
                now or dt.datetime.now(dt.UTC),
                faults if must_be_current else warnings,
            )
    if given_key is not None:
        parsed_key = _parse_key(given_key, faults)
    if given_certificate and given_key and parsed_certificate and parsed_key:
        _check_match(given_certificate, parsed_certificate, given_key, parsed_key, faults)
    if faults:
        raise CertificateError("; ".join(faults))
    assert given_certificate is not None
    assert given_key is not None
    assert parsed_certificate is not None
    return KeyPair(
        certificate_pem=given_certificate.content,
        key_pem=given_key.content,
        der=parsed_certificate.public_bytes(Encoding.DER),
        not_after=parsed_certificate.not_valid_after_utc,
        warnings=(*warnings, *_warnings(given_key)),
    )


def load_authorities(value: str, *, name: str = "cluster_ca_cert") -> tuple[x509.Certificate, ...]:
    """Read the certificates of authorities: a path, PEM text, or base64 of PEM text, one after the other.

    Raises:
        CertificateError: there is none, one is damaged, or one is not that of a CA. Those that have expired
            are taken: what they issued is refused by its date.
    """
    faults: list[str] = []
    found: list[x509.Certificate] = []
    given = _read(value, name, faults)
    if given is not None and _parse_certificate(given, faults) is not None:
        try:
            found = x509.load_pem_x509_certificates(given.content)
        except (ValueError, x509.InvalidVersion) as exc:
            faults.append(f"{given.name}: a certificate is damaged: {_first_line(exc)}")
        faults += [
            f"{given.name}: the certificate of {one.subject.rfc4514_string()!r} is not that of a CA "
            "(basicConstraints has to say CA:TRUE)"
            for one in found
            if not _is_authority(one)
        ]
    if faults:
        raise CertificateError("; ".join(faults))
    return tuple(found)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _read(value: str, name: str, faults: list[str]) -> _Given | None:
    if not value.strip():
        faults.append(f"{name} is not set")
        return None
    if "-----BEGIN" in value:
        return _Given(f"{name} (given as text)", value.encode(), None)
    if (decoded := _from_base64(value)) is not None:
        return _Given(f"{name} (given as base64)", decoded, None)
    called = f"{name} {value}"
    try:
        with open(value, "rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = os.strerror(exc.errno).lower() if isinstance(exc, OSError) and exc.errno else str(exc)
        hint = f" for user id {os.geteuid()}" if isinstance(exc, PermissionError) else ""
        faults.append(f"{called}: cannot be read{hint}: {reason}")
        return None
    if len(content) > FILE_LIMIT_BYTES:
        faults.append(f"{called}: is larger than {FILE_LIMIT_BYTES} bytes")
        return None
    return _Given(called, content, value)


def _from_base64(value: str) -> bytes | None:
    try:
        decoded = base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if b"-----BEGIN" in decoded else None


def _parse_certificate(given: _Given, faults: list[str]) -> x509.Certificate | None:
    if b"-----BEGIN CERTIFICATE-----" not in given.content:
        faults.append(f"{given.name}: holds no certificate in PEM form ('-----BEGIN CERTIFICATE-----')")
        return None
    try:
        return x509.load_pem_x509_certificate(given.content)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        faults.append(f"{given.name}: the certificate is damaged: {_first_line(exc)}")
        return None


def _parse_key(given: _Given, faults: list[str]) -> PrivateKeyTypes | None:
    if b"PRIVATE KEY-----" not in given.content:
        faults.append(f"{given.name}: holds no private key in PEM form ('-----BEGIN PRIVATE KEY-----')")
        return None
    try:
        return load_pem_private_key(given.content, password=None)
    except TypeError:
        faults.append(f"{given.name}: the key is encrypted; give it without a passphrase")
    except (ValueError, UnsupportedAlgorithm) as exc:
        faults.append(f"{given.name}: the key is damaged: {_first_line(exc)}")
    return None


def _check_dates(given: _Given, certificate: x509.Certificate, now: dt.datetime, faults: list[str]) -> None:
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    clock = f"and the clock here says {now:%Y-%m-%d %H:%M:%S} UTC"
    if now >= not_after:
        faults.append(f"{given.name}: the certificate expired on {not_after:%Y-%m-%d %H:%M:%S} UTC, {clock}")
    elif now < not_before:
        faults.append(
            f"{given.name}: the certificate is not valid before {not_before:%Y-%m-%d %H:%M:%S} UTC, {clock}"
        )


def _check_match(
    given_certificate: _Given,
    certificate: x509.Certificate,
    given_key: _Given,
    key: PrivateKeyTypes,
    faults: list[str],
) -> None:
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        faults.append(
            f"{given_key.name}: the key does not belong to the certificate of {given_certificate.name}"
        )


def _warnings(given_key: _Given) -> Iterator[str]:
    if given_key.path is not None:
        mode = stat.S_IMODE(os.stat(given_key.path).st_mode)
        if mode & stat.S_IROTH:
            yield (
                f"{given_key.name}: everybody on this machine can read the key (mode {mode:04o});"
                f" 'chmod 600 {given_key.path}' unless another user's process needs it"
            )


def _first_line(exc: Exception) -> str:
    return str(exc).partition("\n")[0] or type(exc).__name__
