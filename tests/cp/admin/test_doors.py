"""The doors of the Admin API: plain ones and TLS, with a certificate of ours or of the user's."""

from __future__ import annotations

import signal
import ssl
import stat
from pathlib import Path

import httpx

from tests.cli.running import fastgw_command
from tests.cp.test_control_plane import EPHEMERAL, control_plane
from tests.tls.certificates import make_pair
from tests.waiting import wait_until

TOKEN = "token-of-the-probe-0123456789"


def trusting(*certificates: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for certificate in certificates:
        context.load_verify_locations(certificate)
    return context


def test_plain_and_tls_doors_beside_each_other(tmp_path: Path) -> None:
    listen = "127.0.0.1:0, 127.0.0.1:0 ssl, 127.0.0.1:0"
    with control_plane(tmp_path, None, **{**EPHEMERAL, "admin_listen": listen}) as process:
        plain = process.address("Admin API")
        secure = process.address("Admin API", ", with TLS")
        made = tmp_path / "prefix/ssl/admin-default-ec.crt"
        assert stat.S_IMODE(made.with_suffix(".key").stat().st_mode) == 0o600
        port = secure.rpartition(":")[2]
        url = f"https://localhost:{port}"
        trust = trusting(made, tmp_path / "prefix/ssl/admin-default-rsa.crt")
        with httpx.Client(base_url=url, verify=trust, trust_env=False) as client:
            assert client.post("/services", json={"name": "s", "host": "h"}).status_code == 201
        assert httpx.get(f"http://{plain}/services/s").json()["host"] == "h"
        assert process.log().count("the Admin API listens on") == 3


def test_a_tls_door_alone_with_a_pair_of_ones_own_and_tokens(tmp_path: Path) -> None:
    pair = make_pair(subject="admin.test")
    certificate, key, tokens = tmp_path / "admin.crt", tmp_path / "admin.key", tmp_path / "tokens"
    certificate.write_bytes(pair.certificate_pem)
    key.touch(0o600)
    key.write_bytes(pair.key_pem)
    tokens.write_text(f"probe:{TOKEN}:read\n")
    properties = {
        "admin_listen": "127.0.0.1:0 ssl",
        "admin_ssl_cert": str(certificate),
        "admin_ssl_cert_key": str(key),
        "admin_token_file": str(tokens),
    }
    with control_plane(tmp_path, None, **{**EPHEMERAL, **properties}) as process:
        address = process.address("Admin API", ", with TLS")
        assert not (tmp_path / "prefix/ssl").exists()
        with httpx.Client(base_url=f"https://{address}", verify=False, trust_env=False) as client:
            assert client.get("/status").status_code == 401
        sets = [f"--set={name}={value}" for name, value in properties.items()]
        # What the commands ask is the door's own certificate, whatever name it bears, and no other.
        asked = fastgw_command("health", "cp", *sets, f"--set=admin_listen={address} ssl")
        assert (asked.returncode, asked.stdout) == (0, "the control plane is well\n"), asked.stderr
        other = make_pair(subject="admin.test")
        certificate.write_bytes(other.certificate_pem)
        key.write_bytes(other.key_pem)
        asked = fastgw_command("health", "cp", *sets, f"--set=admin_listen={address} ssl")
        assert asked.returncode == 1
        assert "certificate verify failed" in asked.stderr
        process.process.send_signal(signal.SIGHUP)
        host, port = address.split(":")
        wait_until(
            lambda: ssl.get_server_certificate((host, int(port))).encode() in other.certificate_pem,
            10,
            "the new certificate",
        )
        certificate.write_text("nothing")
        process.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the Admin API keeps its certificate" in process.log(), 10, "the refusal")
        assert ssl.get_server_certificate((host, int(port))).encode() in other.certificate_pem
