"""Key pairs for tests: by the openssl command that a Kong user runs, by gen-cert, and ones that cannot serve."""

from __future__ import annotations

import datetime as dt
import functools
import subprocess
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fastgw.tls.generate import GeneratedPair, generate_cluster_pair
from fastgw.tls.keypair import KeyPair, load_key_pair

KINDS = ("openssl", "gen_cert", "issued")


@functools.cache
def openssl_pair() -> GeneratedPair:
    """What Kong's walk-through makes; once per run, since 4096 bits take their time."""
    with tempfile.TemporaryDirectory() as directory:
        command = (
            "openssl req -x509 -newkey rsa:4096 -keyout cluster.key -out cluster.crt -days 365 -nodes"
            " -subj /CN=kong_clustering/"
        )
        subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
        path = Path(directory)
        return GeneratedPair((path / "cluster.crt").read_bytes(), (path / "cluster.key").read_bytes())


@functools.cache
def gen_cert_pair() -> GeneratedPair:
    return generate_cluster_pair()


@functools.cache
def issued_pair() -> GeneratedPair:
    """A leaf that a CA issued; the CA's certificate is nowhere."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    return make_pair(issuer="some CA", signer=ca_key)


def pair_of(kind: str) -> GeneratedPair:
    return {"openssl": openssl_pair, "gen_cert": gen_cert_pair, "issued": issued_pair}[kind]()


def loaded(pair: GeneratedPair) -> KeyPair:
    return load_key_pair(pair.certificate_pem.decode(), pair.key_pem.decode())


def make_pair(
    *,
    subject: str = "kong_clustering",
    issuer: str | None = None,
    signer: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    from_days: int = -1,
    until_days: int = 1,
) -> GeneratedPair:
    """A pair that is valid between two days counted from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer or subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=from_days))
        .not_valid_after(now + dt.timedelta(days=until_days))
        .sign(signer or key, hashes.SHA256())
    )
    return GeneratedPair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
