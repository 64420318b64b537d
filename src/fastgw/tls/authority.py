"""The cluster's own authority: certificates for control planes and data planes, and what a request must be.

    authority ──issues──> control plane   serverAuth, DNS name CONTROL_PLANE_NAME
              ──issues──> data plane      clientAuth, its name as CN, its node id as urn:uuid
              ──issues──> the next authority (`cross_sign`), so that who trusts only this one trusts both

Contract. Keys are EC P-256, signatures ECDSA with SHA-256. Of a request only the public key counts: the
names in a certificate are those that the caller decided. Certificates begin `CLOCK_TOLERANCE` before now,
so that a node whose clock is a little behind takes them. A data plane's certificate cannot serve as a
control plane's, nor the reverse: by its use, and by its name.

The one complication is a node's identity: Hello tells a node id, and only the certificate proves it. So the
id stands in the certificate as `urn:uuid:`, and `node_id_of` reads it back.

Source: RFC 5280; RFC 4122 §3 for the URN.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fastgw.errors import CertificateError
from fastgw.tls.handshake import check_dates
from fastgw.tls.keypair import KeyPair

CONTROL_PLANE_NAME: Final = "control-plane.fastgw.internal"
"""The name in every control plane's certificate, which data planes insist on whatever address they dial."""
CLOCK_TOLERANCE: Final = dt.timedelta(minutes=5)
AUTHORITY_DAYS: Final = 3650
REQUEST_LIMIT_BYTES: Final = 8192
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, repr=False)
class Issued:
    """A certificate that was just issued."""

    certificate: x509.Certificate

    @property
    def serial(self) -> str:
        return serial_of(self.certificate)

    @property
    def not_before(self) -> dt.datetime:
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> dt.datetime:
        return self.certificate.not_valid_after_utc

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


class Authority:
    """A certificate of a CA and its key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate: Final = certificate
        self._key = key

    @classmethod
    def make(cls, cluster_id: str, now: dt.datetime, *, days: int = AUTHORITY_DAYS) -> Self:
        """Make a new authority for the cluster of this id."""
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"fastgw cluster {cluster_id}"),
                # Two authorities of one cluster have different names, or chains could not be told apart.
                x509.NameAttribute(NameOID.COMMON_NAME, f"fastgw authority {serial:x}"[:64]),
            ]
        )
        builder = _authority_builder(name, key.public_key(), now, now + dt.timedelta(days=days), serial)
        return cls(builder.issuer_name(name).sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, certificate_pem: str, key_pem: str, secret: str) -> Self:
        """Read an authority back; *secret* is what its key was encrypted with, empty for not at all.

        Raises:
            CertificateError: the secret is wrong or missing, or the texts are damaged.
        """
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        return cls(certificate, _load_key(key_pem, secret, "the authority's key"))

    @property
    def id(self) -> str:
        """The first 16 hex digits of its fingerprint."""
        return self.pin.hex()[:16]

    @property
    def pin(self) -> bytes:
        """SHA-256 of the certificate in DER."""
        return self.certificate.fingerprint(hashes.SHA256())

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self, secret: str) -> str:
        """The key as PKCS#8, encrypted with *secret* unless that is empty."""
        return private_pem(self._key, secret)

    def cross_sign(self, other: Authority, now: dt.datetime) -> x509.Certificate:
        """Vouch for another authority: a certificate of its name and key that this one issued."""
        until = min(self.certificate.not_valid_after_utc, other.certificate.not_valid_after_utc)
        builder = _authority_builder(
            other.certificate.subject, other._key.public_key(), now, until, x509.random_serial_number()
        )
        return builder.issuer_name(self.certificate.subject).sign(self._key, hashes.SHA256())

    def issue_data_plane(
        self,
        public_key: ec.EllipticCurvePublicKey,
        *,
        name: str,
        node_id: str | None,
        lifetime: dt.timedelta,
        now: dt.datetime,
    ) -> Issued:
        """Issue a data plane's certificate.

        Args:
            name: as `check_name` allows.
            node_id: its UUID; None for one that proves no id, such as a Kong node's.
        """
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if node_id is not None:
            names.append(x509.UniformResourceIdentifier(f"urn:uuid:{node_id}"))
        return self._issue(public_key, name, names, ExtendedKeyUsageOID.CLIENT_AUTH, lifetime, now)

    def issue_control_plane(
        self,
        public_key: ec.EllipticCurvePublicKey,
        *,
        names: tuple[str, ...] = (),
        lifetime: dt.timedelta,
        now: dt.datetime,
    ) -> Issued:
        """Issue a control plane's certificate, for *names* beside `CONTROL_PLANE_NAME`."""
        general = [x509.DNSName(one) for one in dict.fromkeys((CONTROL_PLANE_NAME, *names))]
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        return self._issue(public_key, CONTROL_PLANE_NAME, general, usage, lifetime, now)

    def _issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        common_name: str,
        names: list[x509.GeneralName] | list[x509.DNSName],
        usage: x509.ObjectIdentifier,
        lifetime: dt.timedelta,
        now: dt.datetime,
    ) -> Issued:
        check_dates(self.certificate, now, "the authority's certificate")
        until = min(now + lifetime, self.certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_TOLERANCE)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return Issued(certificate)


class NodeKey:
    """A key that never leaves its node."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self._key = key or ec.generate_private_key(ec.SECP256R1())

    @classmethod
    def load(cls, pem: str) -> Self:
        """Read it back. Raises CertificateError when it is damaged."""
        return cls(_load_key(pem, "", "the node's key"))

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    @property
    def pem(self) -> str:
        return private_pem(self._key, "")

    def request(self) -> bytes:
        """A signing request in DER; it proves that who sends it has the key."""
        empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return empty.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)

    def pair(self, certificate: x509.Certificate, *chain: x509.Certificate) -> KeyPair:
        """This key with its certificate and what links that to a trusted one."""
        pem = b"".join(one.public_bytes(Encoding.PEM) for one in (certificate, *chain))
        der = certificate.public_bytes(Encoding.DER)
        return KeyPair(pem, self.pem.encode(), der, certificate.not_valid_after_utc, ())


def read_request(request: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request, whose sender has proved to have the private one.

    Raises:
        CertificateError: it is too long, damaged, signed with another key, or its key is no P-256 one.
    """
    if len(request) > REQUEST_LIMIT_BYTES:
        raise CertificateError(f"the request is longer than {REQUEST_LIMIT_BYTES} bytes")
    try:
        parsed = x509.load_der_x509_csr(request)
        key = parsed.public_key()
        is_proved = parsed.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion):
        raise CertificateError("the request is no PKCS#10 request in DER") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError("the request's key is not an EC key of the curve P-256")
    if not is_proved:
        raise CertificateError("the request is not signed with its own key")
    return key


def check_name(name: str) -> str:
    """Return a data plane's name if it can stand in a certificate.

    Raises:
        CertificateError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise CertificateError(
            f"{name[:80]!r} is no name for a node: 1 to 64 letters, digits and inner '.', '_' or '-'"
        )
    return name


def node_id_of(certificate: x509.Certificate) -> str | None:
    """The node id that a certificate proves; None when it proves none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if uri.startswith("urn:uuid:"):
            try:
                return str(uuid.UUID(uri.removeprefix("urn:uuid:")))
            except ValueError:
                return None
    return None


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number as it is shown and stored: lower-case hex."""
    return f"{certificate.serial_number:x}"


def public_key_der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _authority_builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, until: dt.datetime, serial: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def private_pem(key: PrivateKeyTypes, secret: str) -> str:
    """A private key as PKCS#8 PEM, encrypted with *secret* unless that is empty."""
    how: KeySerializationEncryption = BestAvailableEncryption(secret.encode()) if secret else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how).decode()


def load_private_pem(pem: str, secret: str, called: str) -> PrivateKeyTypes:
    """Read a key that `private_pem` wrote.

    Raises:
        CertificateError: the secret is missing or another one, or the key is damaged.
    """
    is_encrypted = "ENCRYPTED" in pem.partition("\n")[0]
    if is_encrypted and not secret:
        raise CertificateError(f"{called} is encrypted: pki_secret must be the one that encrypted it")
    try:
        return load_pem_private_key(pem.encode(), secret.encode() if is_encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = "pki_secret is another one than encrypted it" if is_encrypted else "it is damaged"
        raise CertificateError(f"{called} cannot be read: {why}") from None


def _load_key(pem: str, secret: str, called: str) -> ec.EllipticCurvePrivateKey:
    key = load_private_pem(pem, secret, called)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{called} is not an EC key")
    return key
