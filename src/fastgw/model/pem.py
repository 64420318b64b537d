"""Certificates and keys in PEM, and JSON web keys: what is wrong with them, in Kong's words.

Each function returns a message, or None for what is good. Vault references never reach here.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from fastgw.model.pem_memory import openssl_fault

_BEGIN = "-----BEGIN CERTIFICATE-----"
_BAD = (ValueError, TypeError, UnsupportedAlgorithm)


def certificate_fault(text: str) -> str | None:
    try:
        x509.load_pem_x509_certificates(text.encode())
    except _BAD as error:
        return f"invalid certificate: {_reason(error)}"
    return None


def key_fault(text: str) -> str | None:
    """Kong takes a private or a public key here."""
    try:
        _public_half(text)
    except _BAD as error:
        return f"invalid key: {_reason(error)}"
    return None


def public_key_fault(text: str) -> str | None:
    try:
        load_pem_public_key(text.encode())
    except _BAD:
        return "could not load public key"
    return None


def pair_fault(cert: str, key: str, what: str) -> str | None:
    """Whether *key* belongs to the first certificate of *cert*, and both can be presented."""
    leaf = x509.load_pem_x509_certificates(cert.encode())[0]
    if _public_bytes(leaf.public_key()) != _public_half(key):
        return f"{what} does not match key"
    fault = openssl_fault(cert.encode(), key.encode())
    return None if fault is None else f"{what} cannot be presented: OpenSSL says '{fault}'"


def same_type_fault(cert: str, cert_alt: str) -> str | None:
    first, second = (x509.load_pem_x509_certificates(text.encode())[0] for text in (cert, cert_alt))
    if type(first.public_key()) is not type(second.public_key()):
        return None
    return (
        "certificate and alternative certificate need to have different type (e.g. RSA and ECDSA), "
        "the provided certificates were both of the same type"
    )


def authority_fault(cert: str) -> str | None:
    if cert.count(_BEGIN) > 1:
        return "please submit only one certificate at a time"
    certificate = x509.load_pem_x509_certificate(cert.encode())
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        return 'certificate expired, "Not After" time is in the past'
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, ValueError):
        is_authority = False
    else:
        is_authority = constraints.value.ca
    if is_authority:
        return None
    return 'certificate does not appear to be a CA because it is missing the "CA" basic constraint'


def certificate_digest(cert: str) -> str:
    """SHA-256 of the certificate, in hex."""
    return x509.load_pem_x509_certificate(cert.encode()).fingerprint(hashes.SHA256()).hex()


def jwk_fault(jwk: str, kid: str) -> str | None:
    try:
        key = json.loads(jwk)
    except (ValueError, RecursionError):
        return "could not json decode jwk string"
    if not isinstance(key, Mapping):
        return "could not json decode jwk string"
    if key.get("kid") != kid:
        return "kid in jwk.kid must be equal to keys.kid"
    needed = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x"), "oct": ("k",)}
    kty = key.get("kty")
    parts = needed.get(kty) if isinstance(kty, str) else None
    if parts is None or not all(isinstance(key.get(part), str) for part in parts):
        return "could not load JWK, likely not a valid key"
    return None


def key_pair_fault(pair: Mapping[str, Any]) -> str | None:
    """The two halves of a key, of which one may be missing."""
    public, private = pair.get("public_key"), pair.get("private_key")
    if any(isinstance(half, str) and half.startswith("{vault://") for half in (public, private)):
        return None
    public_half = private_half = None
    if public is not None:
        try:
            public_half = _public_bytes(load_pem_public_key(public.encode()))
        except _BAD:
            return "could not load public key"
    if private is not None:
        try:
            private_half = _public_bytes(load_pem_private_key(private.encode(), None).public_key())
        except _BAD:
            return "could not load private key"
    if public_half and private_half and public_half != private_half:
        return "public key does not match private key"
    return None


def _public_half(text: str) -> bytes:
    try:
        return _public_bytes(load_pem_private_key(text.encode(), None).public_key())
    except _BAD:
        return _public_bytes(load_pem_public_key(text.encode()))


def _public_bytes(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _reason(error: Exception) -> str:
    """The first sentence of what the library says; it may go on for lines."""
    return " ".join(str(error).split()).partition(". ")[0] or "cannot be read"
