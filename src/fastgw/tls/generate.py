"""Making key pairs: the one that control plane and data planes share, and the proxy's default ones.

The shared certificate is what Kong's `hybrid gen_cert` makes, so that Kong's nodes take it too: self-signed,
P-384, the common name `kong_clustering`, and no extension. It is X.509 v3 with a random serial number, since
nothing is gained by Kong's v1 and 0.
"""

from __future__ import annotations

import datetime as dt
from typing import Final, Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fastgw.tls.cluster import SERVER_NAME

DEFAULT_DAYS: Final = 1095
_PLACEHOLDER_DAYS: Final = 20 * 365
_CLOCK_TOLERANCE: Final = dt.timedelta(minutes=5)
"""A data plane whose clock is a little behind must take a pair made a moment ago."""


class GeneratedPair(NamedTuple):
    certificate_pem: bytes
    key_pem: bytes
    """PKCS#8, not encrypted."""


def generate_cluster_pair(days: int = DEFAULT_DAYS) -> GeneratedPair:
    """Make a new pair that is valid from now on for so many days.

    Source: Kong's `kong hybrid gen_cert`, whose default is three years.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_TOLERANCE)
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, hashes.SHA384())
    )
    return GeneratedPair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def generate_placeholder_pair(kind: Literal["ec", "rsa"]) -> GeneratedPair:
    """Make a self-signed pair for `localhost`, for a server that was given none; nobody should trust it.

    Source: the default certificates that Kong makes at its first start (20 years).
    """
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_TOLERANCE)
        .not_valid_after(now + dt.timedelta(days=_PLACEHOLDER_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return GeneratedPair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
