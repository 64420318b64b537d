"""`fastgw cp` as a process: it starts, serves, pushes and ends; and says in one line why it cannot."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fastgw.cp.main import ControlPlane, run_control_plane
from fastgw.cp.publisher import Publisher
from fastgw.errors import FastgwError
from fastgw.tls.generate import GeneratedPair
from tests.cp.cluster_nodes import Log, Node, eventually, run, settings_of
from tests.postgres import PgDatabase
from tests.tls.certificates import gen_cert_pair, issued_pair, make_pair
from tests.waiting import wait_until

EPHEMERAL = {"admin_listen": "127.0.0.1:0", "cluster_listen": "127.0.0.1:0", "admin_error_log": "/dev/stderr"}


class Process:
    """A running `fastgw cp`, its log in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self._log_path = log_path

    def log(self) -> str:
        return self._log_path.read_text()

    def address(self, what: str, end: str = "") -> str:
        def found() -> str:
            assert self.process.poll() is None, self.log()
            match = re.search(rf"the {what} listens on ([^\s,]+){end}", self.log())
            return match[1] if match is not None else ""

        return wait_until(found, 15, f"the {what}'s address in the log")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


@contextmanager
def control_plane(directory: Path, pair: GeneratedPair | None = None, **properties: str) -> Iterator[Process]:
    pair = pair or gen_cert_pair()
    certificate, key = directory / "cluster.crt", directory / "cluster.key"
    certificate.write_bytes(pair.certificate_pem)
    key.write_bytes(pair.key_pem)
    key.chmod(0o600)
    values = {"cluster_cert": str(certificate), "cluster_cert_key": str(key), **EPHEMERAL, **properties}
    flags = [f"--set={name}={value}" for name, value in values.items()]
    log_path = directory / "cp.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastgw", "cp", "--prefix", str(directory / "prefix"), *flags],
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    try:
        yield Process(process, log_path)
    finally:
        process.kill()
        process.wait()


def fails(directory: Path, pair: GeneratedPair | None = None, **properties: str) -> str:
    """The one line that a control plane says before it ends with exit code 1."""
    with control_plane(directory, pair, **properties) as process:
        assert process.process.wait(15) == 1
        (line,) = process.log().splitlines()
        return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_serves_and_ends(tmp_path: Path, number: signal.Signals) -> None:
    with control_plane(tmp_path) as process:
        admin = process.address("Admin API")
        process.address("cluster port")
        created = httpx.post(f"http://{admin}/services", data={"name": "s", "host": "example.com"})
        assert created.status_code == 201, created.text
        wait_until(lambda: "published version 1" in process.log(), 5, "the publication")
        publication = httpx.get(f"http://{admin}/status").json()["fastgw"]["publication"]
        assert publication["version"] == 1
        begun = time.monotonic()
        assert process.end(number) == 0
        assert time.monotonic() - begun < 5
        assert "Traceback" not in process.log()
    with control_plane(tmp_path) as process:
        admin = process.address("Admin API")
        assert httpx.get(f"http://{admin}/services/s").json()["host"] == "example.com"


@pytest.mark.parametrize("name", ["admin_listen", "cluster_listen"])
def test_a_taken_port_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = fails(tmp_path, None, **{name: address})
        assert line == (
            f"fastgw: {name} {address}: the port is taken by another process;"
            " stop that one or choose another port"
        )


def test_a_pair_that_cannot_serve_is_one_clear_line(tmp_path: Path) -> None:
    expired = make_pair(from_days=-3, until_days=-1)
    assert "cluster.crt: the certificate expired on" in fails(tmp_path, expired)
    mismatched = GeneratedPair(gen_cert_pair().certificate_pem, issued_pair().key_pem)
    assert "cluster.key: the key does not belong to the certificate" in fails(tmp_path, mismatched)
    missing = str(tmp_path / "missing.key")
    line = fails(tmp_path, cluster_cert_key=missing)
    assert line == f"fastgw: cluster_cert_key {missing}: cannot be read: no such file or directory"
    assert "hybrid gen-cert" in fails(tmp_path, cluster_cert="", cluster_cert_key="")


def test_tokens_that_are_none_are_one_clear_line(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("alice:short\n")
    line = fails(tmp_path, admin_token_file=str(tokens))
    assert line.startswith(f"fastgw: admin_token_file: {tokens}, line 1: expected name:token")
    missing = tmp_path / "missing"
    line = fails(tmp_path, admin_token_file=str(missing))
    assert line == f"fastgw: admin_token_file: cannot read {missing}: no such file or directory"


def test_a_key_that_others_can_read_costs_one_warning(tmp_path: Path) -> None:
    key = tmp_path / "open.key"
    key.write_bytes(gen_cert_pair().key_pem)
    key.chmod(0o644)
    with control_plane(tmp_path, cluster_cert_key=str(key)) as process:
        process.address("cluster port")
        assert process.log().count("everybody on this machine can read the key (mode 0644)") == 1


def test_an_empty_postgresql_wants_to_be_bootstrapped(tmp_path: Path, pg_database: PgDatabase) -> None:
    assert "fastgw migrations bootstrap" in fails(tmp_path, None, **pg_database.properties)


def test_a_write_reaches_a_connected_data_plane_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = Log(tmp_path)
        settings = settings_of(
            "control_plane", tmp_path, gen_cert_pair(), **EPHEMERAL, admin_access_log="off"
        )
        cp = ControlPlane(settings)
        await cp.start()
        node = Node(tmp_path, cp.cluster_addresses[0])
        try:
            async with node.running(), httpx.AsyncClient(base_url=f"http://{cp.admin_addresses[0]}") as admin:
                await eventually(lambda: node.state.digest == "0" * 64, "the empty configuration")
                delays = []
                for number in range(20):
                    created = await admin.post("/services", json={"name": f"s{number}", "host": "h"})
                    answered_at = time.monotonic()
                    assert created.status_code == 201
                    await eventually(lambda: node.state.version == number + 1, "the change")  # noqa: B023
                    delays.append(time.monotonic() - answered_at)
                # A few milliseconds on an idle machine; polling or a debounce would cost a hundred and more.
                assert sorted(delays)[len(delays) // 2] < 0.1
                (shown,) = (await admin.get("/clustering/data-planes")).json()["data"]
                assert (shown["id"], shown["connected"]) == (node.id, True)
                status = (await admin.get("/clustering/status")).json()
                assert status[node.id]["config_hash"] == node.state.digest[:32]
        finally:
            await cp.close()
        await log.shows("is disconnected")

    run(scenario())


def test_a_part_that_fails_ends_the_control_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Publisher) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Publisher, "_step", fail)

    async def scenario() -> None:
        settings = settings_of("control_plane", tmp_path, gen_cert_pair(), **EPHEMERAL)
        with pytest.raises(FastgwError, match="the publisher has ended: oops"):
            await run_control_plane(settings)

    run(scenario())
