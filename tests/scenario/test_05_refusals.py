"""What a node refuses to do: one clear line and exit code 1, or a line in the log about who was refused."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from tests.scenario.harness import Pair, Stage
from tests.scenario.process import HOST, Process
from tests.tls.certificates import make_pair
from tests.waiting import free_port

_CONSOLE: Final = {"admin_error_log": "/dev/stderr", "proxy_error_log": "/dev/stderr"}


@contextlib.contextmanager
def taken_port(host: str) -> Iterator[int]:
    with socket.create_server((host, 0)) as server:
        yield server.getsockname()[1]


def refused_line(process: Process) -> str:
    """The one line for people; lines of the log may stand before it."""
    assert process.exit_code() == 1, process.show()
    lines = [line for line in process.log.splitlines() if not re.match(r"\d{4}/\d\d/\d\d ", line)]
    assert len(lines) == 1, process.show()
    assert lines[0].startswith("fastgw: ")
    process.wait_gone()
    return lines[0]


@pytest.mark.parametrize(
    ("command", "door", "host"),
    [
        ("cp", "admin_listen", "127.0.0.1"),
        ("cp", "cluster_listen", "0.0.0.0"),
        ("dp", "proxy_listen", "0.0.0.0"),
        ("dp", "status_listen", "127.0.0.1"),
    ],
)
def test_a_port_that_is_taken(command: str, door: str, host: str, stage: Stage, pair: Pair) -> None:
    doors = {"cp": ("admin_listen", "cluster_listen"), "dp": ("proxy_listen", "status_listen")}[command]
    with taken_port(host) as port:
        listens = {name: f"{HOST}:{port if name == door else free_port()}" for name in doors}
        if command == "dp":
            listens["proxy_listen"] += " reuseport"
        settings = {"prefix": str(stage.directory / "node"), **listens, **pair.settings, **_CONSOLE}
        line = refused_line(stage.ended(command, settings))
    assert f"{door} {HOST}:{port}: the port is taken by another process" in line


def test_two_data_planes_on_one_port(stage: Stage, pair: Pair) -> None:
    """Although each of their workers listens with SO_REUSEPORT."""
    first = stage.data_plane(pair, None, wait=False)
    first.wait_line("1 worker on")
    settings = {
        "prefix": str(stage.directory / "second"), "status_listen": "off",
        "proxy_listen": f"{HOST}:{first.proxy_port} reuseport", **pair.settings, **_CONSOLE,
    }  # fmt: skip
    assert f"proxy_listen {HOST}:{first.proxy_port}: the port is taken" in refused_line(
        stage.ended("dp", settings)
    )


def test_two_data_planes_on_one_prefix(stage: Stage, pair: Pair) -> None:
    first = stage.data_plane(pair, None, wait=False)
    first.wait_line("1 worker on")
    settings = {
        "prefix": str(first.prefix),
        "proxy_listen": f"{HOST}:{free_port()}",
        **pair.settings,
        **_CONSOLE,
    }
    line = refused_line(stage.ended("dp", settings))
    assert f"prefix {first.prefix}: another data plane runs there (process {first.pid})" in line
    assert first.proxy.get("/").status_code == 404


def test_two_control_planes_on_one_sqlite_file(stage: Stage, pair: Pair) -> None:
    stage.control_plane(pair)
    settings = {
        "prefix": str(stage.directory / "second"), "sqlite_path": str(stage.directory / "cp" / "fastgw.db"),
        "admin_listen": f"{HOST}:{free_port()}", "cluster_listen": f"{HOST}:{free_port()}",
        **pair.settings, **_CONSOLE,
    }  # fmt: skip
    line = refused_line(stage.ended("cp", settings))
    assert str(stage.directory / "cp" / "fastgw.db") in line
    assert "a control plane (process " in line


@pytest.mark.parametrize("command", ["cp", "dp"])
def test_no_key_pair(command: str, stage: Stage) -> None:
    line = refused_line(stage.ended(command, {"prefix": str(stage.directory / "node"), **_CONSOLE}))
    assert "cluster_cert and cluster_cert_key must be provided" in line
    assert "fastgw hybrid gen-cert" in line


def test_a_data_plane_with_another_certificate(stage: Stage, pair: Pair) -> None:
    """Both sides say why, and it goes on trying."""
    control_plane = stage.control_plane(pair)
    other = Pair(stage.directory / "other.crt", stage.directory / "other.key")
    made = make_pair()
    other.certificate.write_bytes(made.certificate_pem)
    other.key.touch(0o600)
    other.key.write_bytes(made.key_pem)
    data_plane = stage.data_plane(other, control_plane, wait=False)
    control_plane.wait_line(r"\[warn\] cp cluster: refused 127\.0\.0\.1:\d+: .*cluster_cert.* is another one")
    data_plane.wait_line(
        r"\[warn\] dp supervisor link: no link to 127\.0\.0\.1:\d+: .*certificate.*; next try in \d\.\d s"
    )
    assert not data_plane.is_connected
    assert control_plane.data_planes() == {}
    assert data_plane.status_client.get("/status/ready").status_code == 503


def dialled(port: int, *, certificate: Pair | None) -> ssl.SSLSocket:
    """A TLS connection to the cluster port by somebody who trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate.certificate, certificate.key)
    return context.wrap_socket(socket.create_connection((HOST, port), timeout=10))


def assert_closed_unheard(port: int, *, certificate: Pair | None) -> None:
    """A request at the cluster port gets no byte of an answer, at most an alert."""
    heard = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        # TLS 1.3 lets the client finish its side before it hears the verdict.
        with dialled(port, certificate=certificate) as peer:
            peer.sendall(b"GET /fastgw/v1/link HTTP/1.1\r\n\r\n")
            heard = peer.recv(1)
    assert heard == b""


def test_strangers_at_the_cluster_port(stage: Stage, pair: Pair) -> None:
    """Refused before anything they say is looked at, with the reason in the log."""
    control_plane = stage.control_plane(pair)
    port = control_plane.cluster_port
    made = make_pair()
    stranger = Pair(stage.directory / "x.crt", stage.directory / "x.key")
    stranger.certificate.write_bytes(made.certificate_pem)
    stranger.key.write_bytes(made.key_pem)
    refused = r"cp cluster: refused 127\.0\.0\.1:\d+: "

    assert_closed_unheard(port, certificate=None)
    control_plane.wait_line(refused + "the peer presented no certificate")
    assert_closed_unheard(port, certificate=stranger)
    control_plane.wait_line(refused + "the peer's certificate is another one than cluster_cert")

    with socket.create_connection((HOST, port), timeout=10) as plain:
        plain.sendall(b"GET /v1/outlet HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while plain.recv(1024):
                pass
    control_plane.wait_line(refused + "the peer does not speak TLS but plain HTTP")

    with dialled(port, certificate=pair) as peer:
        peer.sendall(b"GET /v1/wrpc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert peer.recv(1024).startswith(b"HTTP/1.1 404 ")
    control_plane.wait_line(refused + "answered 404: nothing is served at '/v1/wrpc'")
    assert control_plane.data_planes() == {}


def test_a_prefix_that_cannot_be_made(stage: Stage, pair: Pair) -> None:
    (stage.directory / "file").write_text("")
    for command in ("cp", "dp"):
        settings: Mapping[str, str] = {"prefix": str(stage.directory / "file" / "sub"), **pair.settings}
        assert str(stage.directory / "file") in refused_line(stage.ended(command, settings))
