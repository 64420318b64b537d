"""A certificate authority for tests: chains of any length, names, dates."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fastgw.tls.keypair import KeyPair, load_key_pair

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Authority:
    """A self-signed CA, or one that another CA issued."""

    def __init__(
        self, name: str = "test CA", *, issuer: Authority | None = None, days: tuple[int, int] = (-1, 30)
    ) -> None:
        self.key: Key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.issuer = issuer or self
        self.certificate = self._sign(self.name, self.key, ca=True, names=(), days=days, by=self.issuer)

    def under(self, name: str, *, days: tuple[int, int] = (-1, 30)) -> Self:
        """Make an intermediate CA beneath this one."""
        return type(self)(name, issuer=self, days=days)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(
        self,
        *names: str,
        days: tuple[int, int] = (-1, 30),
        key: Key | None = None,
        chain: tuple[Authority, ...] = (),
        usages: tuple[x509.ObjectIdentifier, ...] = (),
    ) -> KeyPair:
        """A leaf for DNS names and addresses; *chain* follows it in its file."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        leaf = self._sign(subject, key, ca=False, names=names, days=days, by=self, usages=usages)
        text = leaf.public_bytes(Encoding.PEM).decode() + "".join(one.pem for one in chain)
        key_text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return load_key_pair(text, key_text, must_be_current=False)

    def trusting_context(self) -> ssl.SSLContext:
        """A client's context that trusts this CA and no other."""
        return ssl.create_default_context(cadata=self.pem)

    @staticmethod
    def _sign(
        subject: x509.Name,
        key: Key,
        *,
        ca: bool,
        names: tuple[str, ...],
        days: tuple[int, int],
        by: Authority,
        usages: tuple[x509.ObjectIdentifier, ...] = (),
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key()), critical=False
            )
            .add_extension(_usage(ca=ca), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
            )
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(by.key, hashes.SHA256())


def write_pair(pair: KeyPair, certificate: Path, key: Path) -> None:
    """Put a pair in two files, as a tool that renews certificates does."""
    for path, content in ((certificate, pair.certificate_pem), (key, pair.key_pem)):
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_bytes(content)
        fresh.chmod(0o600)
        fresh.rename(path)


def server_context(*pairs: KeyPair) -> ssl.SSLContext:
    """A server's context that presents *pairs*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for pair in pairs:
        with pair.as_paths() as (certificate, key):
            context.load_cert_chain(certificate, key)
    return context


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
