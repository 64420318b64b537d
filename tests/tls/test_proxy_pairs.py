"""The proxy's certificates: made at the first start, kept, mended; or given, with every fault told."""

from __future__ import annotations

import base64
import datetime as dt
import ssl
import stat
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from fastgw.errors import CertificateError
from fastgw.settings import load_settings
from fastgw.tls.proxy_pairs import load_proxy_tls, policy_of
from fastgw.tls.server import Policy, ProxyTls
from tests.tls.authority import Authority

CA = Authority()


def load(prefix: Path, **flags: str) -> ProxyTls:
    return load_proxy_tls(load_settings("data_plane", environ={}, flags={"prefix": str(prefix)} | flags))


def test_pairs_are_made_once_with_keys_for_their_owner_only(tmp_path: Path) -> None:
    first = load(tmp_path)
    kinds = [type(x509.load_der_x509_certificate(pair.der).public_key()).__name__ for pair in first.default]
    assert kinds == ["ECPublicKey", "RSAPublicKey"]
    for pair in first.default:
        assert pair.not_after > dt.datetime.now(dt.UTC) + dt.timedelta(days=19 * 365)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ssl").iterdir()}
    assert modes == {
        "default-ec.crt": 0o644, "default-ec.key": 0o600, "default-rsa.crt": 0o644, "default-rsa.key": 0o600
    }  # fmt: skip
    assert load(tmp_path) == first


@pytest.mark.parametrize("damage", ["gone", "cut", "mixed"])
def test_a_made_pair_that_cannot_serve_is_made_anew(damage: str, tmp_path: Path) -> None:
    first = load(tmp_path)
    key = tmp_path / "ssl" / "default-ec.key"
    if damage == "gone":
        key.unlink()
    elif damage == "cut":
        key.write_bytes(key.read_bytes()[:60])
    else:
        key.write_bytes((tmp_path / "ssl" / "default-rsa.key").read_bytes())
    second = load(tmp_path)
    assert second.default[0] != first.default[0]
    assert second.default[1] == first.default[1]


def test_given_pairs_in_all_forms_and_nothing_is_made(tmp_path: Path) -> None:
    one, two = CA.issue("one.example"), CA.issue("two.example", days=(-3, -1))
    (tmp_path / "one.crt").write_bytes(one.certificate_pem)
    (tmp_path / "one.key").write_bytes(one.key_pem)
    (tmp_path / "one.key").chmod(0o600)
    tls = load(
        tmp_path,
        ssl_cert=f"{tmp_path / 'one.crt'}, {base64.b64encode(two.certificate_pem).decode()}",
        ssl_cert_key=f"{tmp_path / 'one.key'},{two.key_pem.decode()}",
    )
    assert [pair.der for pair in tls.default] == [one.der, two.der]
    assert not (tmp_path / "ssl").exists()
    assert tls.default[0].warnings == ()
    (warning,) = tls.default[1].warnings
    assert "expired on" in warning  # served all the same: clients may not care


def test_all_faults_of_given_pairs_at_once(tmp_path: Path) -> None:
    one, two = CA.issue("one.example"), CA.issue("two.example")
    with pytest.raises(CertificateError) as caught:
        load(
            tmp_path,
            ssl_cert=f"{tmp_path / 'nowhere.crt'},{one.certificate_pem.decode()}",
            ssl_cert_key=f"{two.key_pem.decode()},{two.key_pem.decode()}",
        )
    message = str(caught.value)
    assert "nowhere.crt: cannot be read" in message
    assert "the key does not belong to the certificate" in message
    assert "PRIVATE KEY" not in message


def test_a_prefix_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "ssl").write_text("in the way")
    with pytest.raises(CertificateError, match="the default certificate cannot be written to"):
        load(tmp_path)


def test_it_travels_to_a_worker(tmp_path: Path) -> None:
    tls = load(tmp_path)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(tls), type=ProxyTls) == tls


def test_suites() -> None:
    def policy(**flags: str) -> Policy:
        return policy_of(load_settings("data_plane", environ={}, flags=flags))

    modern = policy(ssl_cipher_suite="modern")
    assert (modern.minimum, modern.maximum) == (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)
    middle = policy(ssl_session_tickets="off")
    assert (middle.minimum, middle.gives_tickets) == (ssl.TLSVersion.TLSv1_2, False)
    custom = policy(ssl_cipher_suite="custom", ssl_protocols="TLSv1.2", ssl_ciphers="ECDHE+AESGCM")
    assert (custom.maximum, custom.ciphers) == (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM")
    assert custom.prefers_own_order
