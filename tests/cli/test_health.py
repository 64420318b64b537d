"""`fastgw health` against a server that answers as told."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from fastgw.cli.ask import reachable
from fastgw.settings import Listen
from tests.cli.running import fastgw_command
from tests.waiting import free_port


class Answering(http.server.BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, object]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, document = self.answers.get(self.path, (404, {"message": "Not found"}))
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[tuple[int, dict[str, tuple[int, object]]]]:
    answers: dict[str, tuple[int, object]] = {}
    handler = type("Handler", (Answering,), {"answers": answers})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1], answers
        server.shutdown()
        thread.join()


Server = tuple[int, dict[str, tuple[int, object]]]


def test_a_control_plane_is_asked_at_its_admin_api(answering: Server) -> None:
    port, answers = answering
    answers["/status"] = (200, {})
    done = fastgw_command("health", "cp", FASTGW_ADMIN_LISTEN=f"0.0.0.0:{port}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the control plane is well\n", "")


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (None, ""),
        ({"is_connected": True, "control_plane": "cp-2:8005"}, ", linked to the control plane cp-2:8005"),
        (
            {"is_connected": False, "last_error": "cp-1:8005: cannot connect"},
            ", linked to no control plane now: cp-1:8005: cannot connect",
        ),
        ({"is_connected": False, "last_error": None}, ", linked to no control plane now: not dialled yet"),
    ],
)
def test_a_data_plane_says_where_it_is_linked(answering: Server, link: object, words: str) -> None:
    port, answers = answering
    answers["/status/ready"] = (200, {"message": "ready"})
    answers["/status"] = (200, {"fastgw": {"link": link}})
    done = fastgw_command("health", "dp", FASTGW_STATUS_LISTEN=f"127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (0, f"the data plane is well{words}\n")


def test_a_data_plane_is_well_once_it_is_ready(answering: Server) -> None:
    port, answers = answering
    environ = {"KONG_ROLE": "data_plane", "KONG_STATUS_LISTEN": f"127.0.0.1:{port}"}
    answers["/status/ready"] = (503, {"message": "no configuration yet"})
    done = fastgw_command("health", **environ)
    assert done.returncode == 1
    url = f"http://127.0.0.1:{port}/status/ready"
    assert done.stderr == f"fastgw: the data plane is not well: {url} answered 503 no configuration yet\n"
    answers["/status/ready"] = (200, {"message": "ready"})
    assert fastgw_command("health", **environ).returncode == 0


def test_nothing_answers() -> None:
    port = free_port()
    done = fastgw_command("health", "dp", FASTGW_STATUS_LISTEN=f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"does not answer at http://127.0.0.1:{port}/status/ready: connection refused" in done.stderr


def test_what_cannot_be_asked() -> None:
    assert "status_listen is off" in fastgw_command("health", "dp", FASTGW_STATUS_LISTEN="off").stderr
    done = fastgw_command("health")
    assert done.returncode == 2
    assert "'fastgw health cp' or 'fastgw health dp'" in done.stderr


def test_a_wildcard_is_reached_by_loopback() -> None:
    assert str(reachable(Listen("0.0.0.0", 1))) == "127.0.0.1:1"
    assert str(reachable(Listen("::", 1))) == "[::1]:1"
    assert str(reachable(Listen("10.0.0.1", 1))) == "10.0.0.1:1"
