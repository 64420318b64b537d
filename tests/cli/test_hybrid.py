"""`fastgw hybrid gen-cert`: Kong's file names and behaviour."""

from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fastgw.cli import main
from fastgw.tls.keypair import load_key_pair


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def gen_cert(*arguments: str, command: str = "gen-cert") -> tuple[int, str]:
    result = CliRunner().invoke(main, ["hybrid", command, *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["gen-cert", "gen_cert"])
def test_default_files(command: str) -> None:
    code, output = gen_cert(command=command)
    assert code == 0
    assert "cluster.crt" in output
    assert "cluster.key" in output
    assert stat.S_IMODE(Path("cluster.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path("cluster.crt").stat().st_mode) == 0o644
    assert Path("cluster.key").read_text().startswith("-----BEGIN PRIVATE KEY-----")
    key = load_pem_private_key(Path("cluster.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp384r1"
    certificate = x509.load_pem_x509_certificate(Path("cluster.crt").read_bytes())
    assert certificate.subject == certificate.issuer
    assert certificate.subject.rfc4514_string() == "CN=kong_clustering"
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=1094) < left <= dt.timedelta(days=1095)
    assert load_key_pair("cluster.crt", "cluster.key").warnings == ()


@pytest.mark.parametrize("option", ["-d", "--days"])
def test_named_files_and_days(option: str) -> None:
    assert gen_cert("a.crt", "a.key", option, "10")[0] == 0
    left = load_key_pair("a.crt", "a.key").not_after - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=9) < left <= dt.timedelta(days=10)


def test_one_path_alone_is_refused() -> None:
    code, output = gen_cert("a.crt")
    assert code == 2
    assert "both the certificate's and the key's path are needed" in output
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("existing", ["cluster.crt", "cluster.key"])
def test_existing_files_are_kept(existing: str) -> None:
    Path(existing).write_text("precious")
    code, output = gen_cert()
    assert code == 1
    assert output == f"fastgw: {existing} exists already, and is not overwritten\n"
    assert [path.name for path in Path().iterdir()] == [existing]
    assert Path(existing).read_text() == "precious"


def test_a_place_that_cannot_be_written_is_named() -> None:
    code, output = gen_cert("no/such/place.crt", "place.key")
    assert code == 1
    assert output == "fastgw: cannot write no/such/place.crt: no such file or directory\n"
    assert not Path("place.key").exists()


@pytest.mark.parametrize("days", ["0", "-1", "x", "99999"])
def test_days_have_bounds(days: str) -> None:
    assert gen_cert("--days", days)[0] == 2
