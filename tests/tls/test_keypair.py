"""Key pairs: every form that they come in, and every fault in one clear line."""

from __future__ import annotations

import base64
import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from fastgw.errors import CertificateError
from fastgw.tls.generate import GeneratedPair
from fastgw.tls.keypair import FILE_LIMIT_BYTES, load_key_pair
from tests.tls.certificates import KINDS, gen_cert_pair, issued_pair, make_pair, pair_of


def write(directory: Path, pair: GeneratedPair, key_mode: int = 0o600) -> tuple[str, str]:
    certificate, key = directory / "cluster.crt", directory / "cluster.key"
    certificate.write_bytes(pair.certificate_pem)
    key.write_bytes(pair.key_pem)
    key.chmod(key_mode)
    return str(certificate), str(key)


def complaint(certificate: str, key: str) -> str:
    with pytest.raises(CertificateError) as caught:
        load_key_pair(certificate, key)
    text = str(caught.value)
    assert "\n" not in text
    assert "PRIVATE KEY-----\n" not in text
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_paths_text_and_base64_give_the_same_pair(tmp_path: Path, kind: str) -> None:
    pair = pair_of(kind)
    by_path = load_key_pair(*write(tmp_path, pair))
    by_text = load_key_pair(pair.certificate_pem.decode(), pair.key_pem.decode())
    by_base64 = load_key_pair(
        base64.b64encode(pair.certificate_pem).decode(), base64.encodebytes(pair.key_pem).decode()
    )
    assert by_path.fingerprint == by_text.fingerprint == by_base64.fingerprint
    assert by_path.warnings == by_text.warnings == ()
    assert by_path.not_after > dt.datetime.now(dt.UTC)


def test_intermediates_may_follow_the_certificate(tmp_path: Path) -> None:
    pair = gen_cert_pair()
    chain = GeneratedPair(pair.certificate_pem + issued_pair().certificate_pem, pair.key_pem)
    assert (
        load_key_pair(*write(tmp_path, chain)).fingerprint
        == load_key_pair(*write(tmp_path, pair)).fingerprint
    )


def test_keys_do_not_show(tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(load_key_pair(*write(tmp_path, gen_cert_pair())))


def test_a_key_that_others_can_read_costs_one_warning(tmp_path: Path) -> None:
    certificate, key = write(tmp_path, gen_cert_pair(), key_mode=0o644)
    (warning,) = load_key_pair(certificate, key).warnings
    assert key in warning
    assert "mode 0644" in warning


def test_what_is_missing_is_named() -> None:
    assert complaint("", "") == "cluster_cert is not set; cluster_cert_key is not set"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    certificate, _ = write(tmp_path, gen_cert_pair())
    missing = str(tmp_path / "missing.key")
    assert complaint(certificate, missing) == (
        f"cluster_cert_key {missing}: cannot be read: no such file or directory"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_key_that_this_user_cannot_read_is_named(tmp_path: Path) -> None:
    certificate, key = write(tmp_path, gen_cert_pair())
    # The directories above tmp_path are root's own: hand over descriptors' paths, not those.
    script = (
        "import os, sys; from fastgw.tls.keypair import load_key_pair\n"
        "os.chdir(sys.argv[1]); os.setgid(65534); os.setuid(65534)\n"
        "load_key_pair('cluster.crt', 'cluster.key')"
    )
    Path(certificate).chmod(0o644)
    tmp_path.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .endswith("cluster_cert_key cluster.key: cannot be read for user id 65534: permission denied")
    )


def test_what_is_no_pem_is_named(tmp_path: Path) -> None:
    certificate, key = write(tmp_path, gen_cert_pair())
    junk = tmp_path / "junk"
    junk.write_bytes(os.urandom(100))
    assert f"cluster_cert {junk}: holds no certificate" in complaint(str(junk), key)
    assert f"cluster_cert_key {junk}: holds no private key" in complaint(certificate, str(junk))
    assert f"cluster_cert {key}: holds no certificate" in complaint(key, key)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(gen_cert_pair().certificate_pem.replace(b"MII", b"AAA"))
    assert f"cluster_cert {damaged}: the certificate is damaged" in complaint(str(damaged), key)
    damaged.write_bytes(gen_cert_pair().key_pem.replace(b"MI", b"AA"))
    assert f"cluster_cert_key {damaged}: the key is damaged" in complaint(certificate, str(damaged))


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    certificate, _ = write(tmp_path, gen_cert_pair())
    huge = tmp_path / "huge"
    huge.write_bytes(bytes(FILE_LIMIT_BYTES + 1))
    assert "is larger than" in complaint(certificate, str(huge))


def test_a_pair_that_does_not_match_is_named(tmp_path: Path) -> None:
    certificate, key = write(tmp_path, GeneratedPair(gen_cert_pair().certificate_pem, issued_pair().key_pem))
    assert complaint(certificate, key) == (
        f"cluster_cert_key {key}: the key does not belong to the certificate of cluster_cert {certificate}"
    )


def test_dates_are_checked_and_named(tmp_path: Path) -> None:
    certificate, key = write(tmp_path, make_pair(from_days=-3, until_days=-1))
    assert f"cluster_cert {certificate}: the certificate expired on 2" in complaint(certificate, key)
    certificate, key = write(tmp_path, make_pair(from_days=1, until_days=2))
    assert f"cluster_cert {certificate}: the certificate is not valid before 2" in complaint(certificate, key)


def test_an_encrypted_key_is_named(tmp_path: Path) -> None:
    pair = gen_cert_pair()
    encrypted = load_pem_private_key(pair.key_pem, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    certificate, key = write(tmp_path, GeneratedPair(pair.certificate_pem, encrypted))
    assert "the key is encrypted; give it without a passphrase" in complaint(certificate, key)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    certificate, _ = write(tmp_path, make_pair(from_days=-3, until_days=-1))
    text = complaint(certificate, str(tmp_path / "missing.key"))
    assert "expired" in text
    assert "no such file" in text
