"""`fastgw dp` as an operator runs it: a process of its own, a declarative file, signals."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import environment, fastgw_command
from tests.dp.test_tls_node import CA
from tests.dp.test_tls_node import write as write_pair
from tests.waiting import free_port, is_listening, wait_until

DEADLINE_S = 20.0


def write_config(path: Path, *paths: str, port: int = 9) -> None:
    routes = "".join(f"  - paths: [{item}]\n" for item in paths)
    path.write_text(
        f'_format_version: "3.0"\nservices:\n- name: s\n  host: 127.0.0.1\n  port: {port}\n  routes:\n{routes}'
    )


class DataPlane:
    """A running `fastgw dp` and where it listens."""

    def __init__(self, prefix: Path, config: Path, **properties: str) -> None:
        self.prefix = prefix
        self.proxy_port, self.status_port = free_port(), free_port()
        chosen = {
            "declarative_config": str(config),
            "proxy_listen": f"127.0.0.1:{self.proxy_port}",
            "status_listen": f"127.0.0.1:{self.status_port}",
            "workers": "1",
        } | properties
        self.arguments = ["dp", "-p", str(prefix)]
        variables = {name: chosen.pop(name) for name in properties if name.isupper()}
        for name, value in chosen.items():
            self.arguments += ["--set", f"{name}={value}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastgw", *self.arguments],
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    def ask(self, path: str) -> tuple[int, bytes]:
        return ask(self.proxy_port, path)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[0]
        return is_listening(self.status_port) and ask(self.status_port, "/status/ready")[0] == 200

    def wait_ready(self) -> None:
        wait_until(self.is_ready, DEADLINE_S, "the data plane is ready")

    def log(self) -> str:
        return (self.prefix / "logs" / "error.log").read_text()

    def wait_log(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.log().count(text) >= times, DEADLINE_S, f"{times} x {text!r} in the log")

    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def wait_end(self) -> tuple[int, str]:
        """Wait for the end; gives the exit code and all that was printed."""
        output, _ = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, output


def ask(port: int, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextlib.contextmanager
def data_plane(tmp_path: Path, *paths: str, port: int = 9, **properties: str) -> Iterator[DataPlane]:
    config = tmp_path / "kong.yml"
    write_config(config, *paths, port=port)
    node = DataPlane(tmp_path / "prefix", config, **properties)
    try:
        node.wait_ready()
        yield node
    finally:
        if node.process.poll() is None:
            node.process.kill()
        node.process.wait()
        if node.process.stdout is not None:
            node.process.stdout.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_declarative_file_is_served_read_again_and_kept_when_it_breaks(tmp_path: Path) -> None:
    config = tmp_path / "kong.yml"
    with data_plane(tmp_path, "/one") as node:
        assert node.ask("/one")[0] == 502
        assert node.ask("/two")[0] == 404
        assert "applied version 1" in node.log()
        uuid.UUID((node.prefix / "fastgw.id").read_text().strip())

        write_config(config, "/one", "/two")
        node.process.send_signal(signal.SIGHUP)
        node.wait_log("applied version 2")
        assert node.ask("/two")[0] == 502

        config.write_text('_format_version: "3.0"\nservices: [{host: 1}, {port: x}]\n')
        node.process.send_signal(signal.SIGHUP)
        node.wait_log("the declarative file is refused")
        assert "services[0].host (line 2): expected a string" in node.log()
        assert "services[1].port (line 2): expected an integer" in node.log()
        assert node.ask("/two")[0] == 502

        node.process.send_signal(signal.SIGTERM)
        assert node.wait_end() == (0, "")
        assert not is_listening(node.proxy_port)
        assert "[error] dp supervisor: worker" not in node.log()


def test_the_first_request_that_is_taken_meets_the_file(tmp_path: Path) -> None:
    """On an empty prefix too, where nothing could be served before the file is."""
    config = tmp_path / "kong.yml"
    write_config(config, "/one")
    node = DataPlane(tmp_path / "prefix", config, workers="2")

    def first_answer() -> int:
        assert node.process.poll() is None, node.process.communicate()[0]
        try:
            return node.ask("/one")[0]
        except ConnectionError:
            return 0

    try:
        assert wait_until(first_answer, DEADLINE_S, "an answer") == 502
        node.wait_ready()
    finally:
        node.process.terminate()
        assert node.wait_end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_requests_in_progress_end_before_the_data_plane_does(number: signal.Signals, tmp_path: Path) -> None:
    release = threading.Event()
    arrived = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(DEADLINE_S)
            connection.recv(65536)
            arrived.set()
            release.wait(DEADLINE_S)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    answers: list[tuple[int, bytes]] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        upstream = threading.Thread(target=serve, args=(listener,))
        upstream.start()
        with data_plane(tmp_path, "/slow", port=listener.getsockname()[1]) as node:
            client = threading.Thread(target=lambda: answers.append(node.ask("/slow")))
            client.start()
            assert arrived.wait(DEADLINE_S)
            node.process.send_signal(number)
            wait_until(lambda: not is_listening(node.proxy_port), DEADLINE_S, "no more is accepted")
            assert ask(node.status_port, "/status/ready")[0] == 503
            assert node.process.poll() is None
            release.set()
            client.join(DEADLINE_S)
            assert node.wait_end() == (0, "")
        upstream.join(DEADLINE_S)
    assert answers == [(200, b"late")]


def test_interrupted_twice_it_does_not_wait_for_requests(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with data_plane(tmp_path, "/never", port=silent.getsockname()[1]) as node:
            with socket.create_connection(("127.0.0.1", node.proxy_port), timeout=DEADLINE_S) as client:
                client.sendall(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
                silent.settimeout(DEADLINE_S)
                upstream, _ = silent.accept()
                # As a terminal does it: to the whole group.
                os.killpg(node.process.pid, signal.SIGINT)
                node.wait_log("drains")
                os.killpg(node.process.pid, signal.SIGINT)
                assert node.wait_end() == (0, "")
                upstream.close()
        assert "Traceback" not in node.log()


def test_workers_and_compile_process_die_with_the_supervisor(tmp_path: Path) -> None:
    with data_plane(tmp_path, "/one", workers="2") as node:
        children = node.children()
        assert len(children) == 3
        node.process.kill()
        node.process.wait()
        wait_until(lambda: not any(map(is_alive, children)), DEADLINE_S, "all processes are gone")
        # Nothing is left that would keep the next one from starting here.
        config = tmp_path / "kong.yml"
        again = DataPlane(node.prefix, config)
        try:
            again.wait_ready()
        finally:
            again.process.terminate()
            assert again.wait_end() == (0, "")


def test_logs_are_opened_anew(tmp_path: Path) -> None:
    with data_plane(tmp_path, "/one", proxy_access_log="logs/access.log json") as node:
        logs = node.prefix / "logs"
        for name in ("error.log", "access.log"):
            (logs / name).rename(logs / f"{name}.1")
        node.process.send_signal(signal.SIGUSR1)
        wait_until(
            lambda: (logs / "error.log").exists() and (logs / "access.log").exists(),
            DEADLINE_S,
            "both logs are there again",
        )
        node.ask("/one")
        wait_until(lambda: (logs / "access.log").read_text(), DEADLINE_S, "the access line")
        entry = json.loads((logs / "access.log").read_text())
        assert (entry["request"]["uri"], entry["response"]["status"]) == ("/one", 502)
        assert "/one" not in (logs / "access.log.1").read_text()
        # What was rotated away is held by nobody, so that deleting it frees its space.
        for pid in (node.process.pid, *node.children()):
            held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            assert not [path for path in held if path.endswith(".log.1")], pid


def test_a_second_data_plane_on_the_prefix_is_refused(tmp_path: Path) -> None:
    with data_plane(tmp_path, "/one") as node:
        done = fastgw_command(*node.arguments)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert f"another data plane runs there (process {node.process.pid})" in done.stderr


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            "services: [{host: 1}]",
            "_format_version: required field missing; services[0].host (line 1): expected a string",
        ),
        ("{", "line 2, column 1: not YAML"),
        (None, "the file: no such file or directory"),
    ],
)
def test_a_file_with_faults_does_not_start(tmp_path: Path, config: str | None, reason: str) -> None:
    path = tmp_path / "kong.yml"
    if config is not None:
        path.write_text(f"{config}\n")
    done = fastgw_command(
        "dp", "-p", str(tmp_path), "--set", f"declarative_config={path}", "--set", "proxy_listen=127.0.0.1:0"
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"kong.yml: {reason}" in done.stderr


def test_a_taken_port_ends_the_start_with_one_line(tmp_path: Path) -> None:
    write_config(tmp_path / "kong.yml", "/one")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = fastgw_command(
            "dp",
            "-p",
            str(tmp_path),
            "--set",
            f"declarative_config={tmp_path / 'kong.yml'}",
            "--set",
            f"proxy_listen=127.0.0.1:{port}",
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"proxy_listen 127.0.0.1:{port}: the port is taken" in done.stderr


def test_sighup_takes_settings_over_and_names_those_that_have_to_wait(tmp_path: Path) -> None:
    conf = tmp_path / "fastgw.conf"
    conf.write_text("nginx_http_client_max_body_size = 1m\n")
    with data_plane(tmp_path, "/one", FASTGW_CONF=str(conf)) as node:
        body = b"x" * 2048
        assert ask(node.proxy_port, "/one", body)[0] == 502
        conf.write_text(
            "nginx_http_client_max_body_size = 1k\nlog_level = debug\nrouter_flavor = traditional\n"
        )
        node.process.send_signal(signal.SIGHUP)
        node.wait_log("settings taken over: log_level, nginx_http_client_max_body_size")
        assert "wait for 'fastgw dp --takeover': router_flavor\n" in node.log()
        assert ask(node.proxy_port, "/one", body)[0] == 413

        conf.write_text("nginx_http_client_max_body_size = much\n")
        node.process.send_signal(signal.SIGHUP)
        node.wait_log("the settings stay as they are: ")
        # A replacement gets what is in force, not what the start gave.
        os.kill(worker_of(node), signal.SIGKILL)
        node.wait_log("is replaced by process")
        assert ask(node.proxy_port, "/one", body)[0] == 413


def test_sighup_reads_certificates_anew_and_cuts_no_connection(tmp_path: Path) -> None:
    first, second = CA.issue("gw.example"), CA.issue("gw.example")
    files = write_pair(first, tmp_path)
    port = free_port()
    with data_plane(
        tmp_path,
        "/one",
        proxy_listen=f"127.0.0.1:{port} ssl",
        ssl_cert=files["ssl_cert"],
        ssl_cert_key=files["ssl_cert_key"],
    ) as node:
        with connected(port) as before:
            assert before.getpeercert(binary_form=True) == first.der
            write_pair(second, tmp_path)
            node.process.send_signal(signal.SIGHUP)
            node.wait_log("certificates of the ssl listeners read anew")
            with connected(port) as after:
                assert after.getpeercert(binary_form=True) == second.der
            before.sendall(b"GET /two HTTP/1.1\r\nHost: gw.example\r\n\r\n")
            assert before.recv(65536).startswith(b"HTTP/1.1 404 ")


def connected(port: int) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    return CA.trusting_context().wrap_socket(sock, server_hostname="gw.example")


def worker_of(node: DataPlane) -> int:
    """The process of the one worker."""
    (worker,) = [
        pid for pid in node.children() if b"fastgw.dp.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return worker
