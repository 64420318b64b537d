"""Plugins on a request's way: each phase, their order and scopes, early answers, errors, what they may write."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastgw.dp.plugins.base import Plugin
from fastgw.dp.plugins.chain import BODY_LIMIT
from fastgw.dp.plugins.messages import Answer, Consumer, Headers, Request, Response
from fastgw.dp.plugins.registry import BUILTIN
from fastgw.model.served import SERVED_PLUGINS
from fastgw.obs import logs
from tests.dp.rig import DEADLINE_S, Proxy, Upstream, image_of, running
from tests.waiting import wait_until

GET = b"GET /a?x=1 HTTP/1.1\r\nHost: example.com\r\nX-One: 1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-From: up\r\n\r\nhello"
POST = b"POST /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\nbody"


def plugin(
    name: str = "probe",
    *,
    priority: int = 10,
    reads_body: bool = False,
    deadline_s: float = 5.0,
    phases: Mapping[str, Callable[..., Any]] | None = None,
    **more_phases: Any,
) -> type[Plugin]:
    """A plugin class with the given phases, each a function that begins with the plugin itself."""
    facts = {"name": name, "priority": priority, "reads_body": reads_body, "deadline_s": deadline_s}
    return type(name.title(), (Plugin,), {**facts, **(phases or {}), **more_phases})


def rows(*classes: type[Plugin], **more: Any) -> dict[str, Any]:
    """What `running` takes for *classes*, each configured once for everything."""
    return {
        "plugin_classes": {one.name: one for one in classes},
        "plugins": [{"name": one.name, "config": {}, **more} for one in classes],
    }


def exchange(
    proxy: Proxy, upstream: Upstream, request: bytes = GET, answer: bytes = ANSWER
) -> tuple[bytes, Any]:
    """Send *request*, have *answer* given to it; returns the head that the upstream got, and the answer."""
    client = proxy.client()
    client.send(request)
    peer = upstream.accept()
    head = peer.read_head()
    peer.send(answer)
    return head, client.read_answer()


class Seen:
    """What happened, in order, and a way to wait for it from the test's thread."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def wait(self, count: int) -> list[Any]:
        wait_until(lambda: len(self.events) >= count, DEADLINE_S, f"{count} events")
        return self.events


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """What has been logged so far."""
    path = tmp_path / "log"
    logs.setup("notice", str(path), process="test")
    yield lambda: path.read_text() if path.exists() else ""
    logs.setup("notice", None, process="fastgw")


def recorder(name: str, priority: int, seen: Seen) -> type[Plugin]:
    """A plugin that notes each phase that it is in."""

    def note(phase: str) -> None:
        seen.events.append((phase, name))

    def body_filter(self: Plugin, request: Request, response: Response, data: bytes, is_last: bool) -> bytes:
        note("body_filter")
        return data

    return plugin(
        name,
        priority=priority,
        rewrite=lambda self, request: note("rewrite"),
        access=lambda self, request: note("access"),
        header_filter=lambda self, request, response: note("header_filter"),
        body_filter=body_filter,
        log=lambda self, request, response: note("log"),
    )


def test_what_compiles_knows_the_plugins_that_are_here() -> None:
    assert frozenset(BUILTIN) == SERVED_PLUGINS
    assert all(one.name == name for name, one in BUILTIN.items())


def test_phases_run_in_order_each_by_priority_then_the_last_name_first() -> None:
    seen = Seen()
    classes = [recorder("a", 5, seen), recorder("b", 5, seen), recorder("c", 90, seen)]
    with running(**rows(*classes)) as (proxy, upstream):
        exchange(proxy, upstream)
        events = seen.wait(15)
    phases = ["rewrite", "access", "header_filter", "body_filter", "log"]
    assert events == [(phase, name) for phase in phases for name in ("c", "b", "a")]


def test_a_route_without_plugins_runs_none() -> None:
    seen = Seen()
    probe = recorder("probe", 1, seen)
    routes = [
        {"name": "with", "paths": ["/with"], "service": "svc"},
        {"name": "rt", "paths": ["/"], "service": "svc"},
    ]
    with running(
        routes=routes,
        plugin_classes={"probe": probe},
        plugins=[{"name": "probe", "config": {}, "route": "with"}],
    ) as (proxy, upstream):
        exchange(proxy, upstream)
        assert seen.events == []
        client = proxy.client()
        client.send(b"GET /with HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream.peers[0].read_head()
        upstream.peers[0].send(ANSWER)
        client.read_answer()
        # Rewrite is for plugins that are for everything.
        assert [phase for phase, _ in seen.wait(4)] == ["access", "header_filter", "body_filter", "log"]


@pytest.mark.parametrize("is_async", [False, True])
def test_access_changes_what_goes_upstream(is_async: bool) -> None:
    def change(request: Request) -> None:
        assert request.headers["x-one"] == "1"
        assert (request.method, request.path, request.query) == ("GET", "/a", "x=1")
        assert request.route is not None
        assert request.service is not None
        assert (request.route.name, request.service.name) == ("rt", "svc")
        assert request.client_ip == "127.0.0.1"
        assert len(request.id) == 32
        request.headers["X-Two"] = "2"
        request.headers.add("X-Two", "3")
        del request.headers["x-one"]
        request.query = "y=2"
        request.upstream_path = "/other"
        request.upstream_host = "inner.example"
        request.method = "DELETE"

    def access(self: Plugin, request: Request) -> Any:
        async def later() -> None:
            await asyncio.sleep(0)
            change(request)

        return later() if is_async else change(request)

    with running(**rows(plugin(access=access))) as (proxy, upstream):
        head, (status, _, body) = exchange(proxy, upstream)
    lines = head.decode().split("\r\n")
    assert lines[0] == "DELETE /other?y=2 HTTP/1.1"
    assert "Host: inner.example" in lines
    assert [line for line in lines if line.startswith("X-Two")] == ["X-Two: 2", "X-Two: 3"]
    assert not any(line.startswith("X-One") for line in lines)
    assert "X-Forwarded-Path: /a" in lines
    assert (status, body) == (200, b"hello")


@pytest.mark.parametrize("is_async", [False, True])
def test_rewrite_comes_before_routing(is_async: bool) -> None:
    def rewrite(self: Plugin, request: Request) -> Any:
        assert request.route is None
        request.path = "/b/c"

        async def nothing() -> None:
            await asyncio.sleep(0)

        return nothing() if is_async else None

    routes = [{"name": "rt", "paths": ["/b"], "service": "svc"}]
    with running(routes=routes, **rows(plugin(rewrite=rewrite))) as (proxy, upstream):
        head, (status, _, _) = exchange(proxy, upstream)
    assert head.startswith(b"GET /c?x=1 HTTP/1.1\r\n")
    assert status == 200


@pytest.mark.parametrize("phase", ["rewrite", "access"])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_early_answer_ends_the_way_and_later_phases_run(phase: str, is_async: bool) -> None:
    seen = Seen()

    def answer(self: Plugin, request: Request) -> Any:
        made = Answer(401, {"message": "who are you"}, {"WWW-Authenticate": "Key"})

        async def later() -> Answer:
            await asyncio.sleep(0)
            return made

        return later() if is_async else made

    first = plugin("first", priority=20, phases={phase: answer})
    with running(**rows(first, recorder("second", 10, seen))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        status, fields, body = client.read_answer()
        assert (status, json.loads(body)) == (401, {"message": "who are you"})
        assert fields["www-authenticate"] == "Key"
        assert fields["content-type"] == "application/json; charset=utf-8"
        assert fields["server"].startswith("fastgw/")
        assert "x-kong-response-latency" in fields
        # The connection goes on.
        client.send(GET)
        assert client.read_answer()[0] == 401
        events = seen.wait(6)
        assert ("access", "second") not in events
        assert {event for event, _ in events} >= {"header_filter", "body_filter", "log"}
        assert upstream.peers == []


def test_a_message_takes_the_form_that_accept_asks_for() -> None:
    def access(self: Plugin, request: Request) -> Answer:
        return Answer.message(403, "no & never", {"X-Why": "rule"})

    with running(**rows(plugin(access=access))) as (proxy, _):
        client = proxy.client()
        client.send(GET.replace(b"X-One: 1", b"Accept: text/html"))
        status, fields, body = client.read_answer()
        assert (status, fields["content-type"], fields["x-why"]) == (403, "text/html; charset=utf-8", "rule")
        assert b"<p>no &amp; never.</p>" in body
        client.send(GET)
        _, fields, body = client.read_answer()
        assert json.loads(body)["message"] == "no & never"


@pytest.mark.parametrize("phase", ["rewrite", "access", "header_filter", "body_filter", "response"])
def test_an_error_is_a_500_and_the_log_names_the_plugin(phase: str, log: Callable[[], str]) -> None:
    def fail(self: Plugin, *arguments: Any) -> None:
        raise RuntimeError("broken")

    with running(**rows(plugin("culprit", phases={phase: fail}))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        if phase in ("header_filter", "body_filter", "response"):
            peer = upstream.accept()
            peer.read_head()
            peer.send(ANSWER)
        status, _, body = client.read_answer()
        assert (status, body[:29]) == (500, b"An unexpected error occurred\n")
        assert b"broken" not in body
        if phase in ("rewrite", "access"):
            assert upstream.peers == []
    assert f"plugin 'culprit' failed in phase '{phase}': RuntimeError: broken" in log()


@pytest.mark.parametrize("phase", ["rewrite", "access", "response"])
def test_an_error_behind_a_wait_is_a_500_too(phase: str, log: Callable[[], str]) -> None:
    async def fail(self: Plugin, *arguments: Any) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("broken")

    with running(**rows(plugin("culprit", phases={phase: fail}))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        if phase == "response":
            peer = upstream.accept()
            peer.read_head()
            peer.send(ANSWER)
        assert client.read_answer()[0] == 500
    assert f"plugin 'culprit' failed in phase '{phase}': RuntimeError: broken" in log()


def test_an_error_once_the_answer_has_begun_cuts_it(log: Callable[[], str]) -> None:
    def fail_at_end(self: Plugin, request: Request, response: Response, data: bytes, is_last: bool) -> bytes:
        if is_last:
            raise RuntimeError("broken")
        return data

    with running(**rows(plugin("culprit", body_filter=fail_at_end))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        peer = upstream.accept()
        peer.read_head()
        peer.send(ANSWER[:-2])
        assert client.read_until(b"\r\nhel\r\n")
        peer.send(ANSWER[-2:])
        assert not client.read_to_end().endswith(b"0\r\n\r\n")
    assert "plugin 'culprit' failed in phase 'body_filter'" in log()


def test_an_error_in_the_log_phase_is_logged_and_others_log_all_the_same(log: Callable[[], str]) -> None:
    seen = Seen()

    def fail(self: Plugin, request: Request, response: Response) -> None:
        raise RuntimeError("broken")

    with running(**rows(plugin("culprit", priority=20, log=fail), recorder("b", 1, seen))) as (
        proxy,
        upstream,
    ):
        assert exchange(proxy, upstream)[1][0] == 200
        wait_until(lambda: ("log", "b") in seen.events, DEADLINE_S, "the other's log")
    assert "plugin 'culprit' failed in phase 'log': RuntimeError: broken" in log()


def test_a_wait_has_a_deadline(log: Callable[[], str]) -> None:
    async def access(self: Plugin, request: Request) -> None:
        await asyncio.Event().wait()

    with running(**rows(plugin("slow", access=access, deadline_s=0.05))) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        assert client.read_answer()[0] == 500
    assert "plugin 'slow' failed in phase 'access': TimeoutError" in log()


def test_what_no_answer_is_is_an_error(log: Callable[[], str]) -> None:
    with running(**rows(plugin(access=lambda self, request: "no"))) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        assert client.read_answer()[0] == 500
    assert "TypeError: it returned str, not an Answer or None" in log()


def test_a_client_that_goes_ends_the_wait() -> None:
    seen = Seen()

    async def access(self: Plugin, request: Request) -> None:
        seen.events.append("waits")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.events.append("cancelled")
            raise

    def log(self: Plugin, request: Request, response: Response) -> None:
        seen.events.append(response.status)

    with running(**rows(plugin(access=access, log=log))) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        seen.wait(1)
        client.reset()
        assert set(seen.wait(3)[1:]) == {"cancelled", 499}
        assert proxy.totals()["connections_busy"] == 0


def test_what_comes_while_a_plugin_waits_is_not_lost() -> None:
    gate = threading.Event()

    async def access(self: Plugin, request: Request) -> None:
        await asyncio.to_thread(gate.wait, DEADLINE_S)

    body = bytes(range(256)) * 1024
    with running(**rows(plugin(access=access))) as (proxy, upstream):
        client = proxy.client()
        client.send(POST.replace(b"Length: 4", b"Length: %d" % len(body))[:-4] + body[:1000])
        gate.set()
        client.send(body[1000:] + GET)
        peer = upstream.accept()
        peer.read_head()
        assert peer.read_exactly(len(body)) == body
        peer.send(ANSWER)
        assert client.read_answer()[2] == b"hello"
        peer.read_head()
        peer.send(ANSWER)
        assert client.read_answer()[2] == b"hello"


def test_header_filters_change_the_answer() -> None:
    def header_filter(self: Plugin, request: Request, response: Response) -> None:
        assert (response.status, response.source, response.headers["x-from"]) == (200, "service", "up")
        response.status = 203
        response.headers["X-From"] = "plugin"
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")

    with running(**rows(plugin(header_filter=header_filter))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        peer = upstream.accept()
        peer.read_head()
        peer.send(ANSWER)
        head = client.read_head().decode()
        assert head.startswith("HTTP/1.1 203 ")
        assert "\r\nX-From: plugin\r\n" in head
        assert head.count("Set-Cookie") == 2
        assert "Content-Length: 5" in head
        assert client.read_exactly(5) == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    ],
)
def test_body_filters_see_every_byte_and_change_the_length(answer: bytes) -> None:
    def body_filter(self: Plugin, request: Request, response: Response, data: bytes, is_last: bool) -> bytes:
        return data.replace(b"l", b"LL") + (b"!" if is_last else b"")

    with running(**rows(plugin(body_filter=body_filter))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        peer = upstream.accept()
        peer.read_head()
        for place in range(len(answer)):
            peer.send(answer[place : place + 1])
        if b"close" in answer:
            peer.close()
        status, fields, body = client.read_answer()
    assert (status, body) == (200, b"heLLLLo!")
    assert "content-length" not in fields


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_answers_without_a_body_stay_so(status: bytes) -> None:
    def body_filter(self: Plugin, request: Request, response: Response, data: bytes, is_last: bool) -> bytes:
        assert data == b""
        return b"more"

    with running(**rows(plugin(body_filter=body_filter))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        peer = upstream.accept()
        peer.read_head()
        peer.send(b"HTTP/1.1 " + status + b"\r\n\r\n")
        assert client.read_head().startswith(b"HTTP/1.1 " + status)
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
        assert b"Content-Length" not in client.read_head()
        client.send(GET)
        peer.read_head()
        assert client.unread == b""


@pytest.mark.parametrize("is_async", [False, True])
def test_the_response_phase_has_the_answer_whole(is_async: bool) -> None:
    def change(request: Request, response: Response) -> None:
        assert response.body == b"hello"
        response.body = b"[" + response.body + b"]"
        response.status = 202
        response.headers["X-Whole"] = "yes"

    def respond(self: Plugin, request: Request, response: Response) -> Any:
        async def later() -> None:
            await asyncio.sleep(0)
            change(request, response)

        return later() if is_async else change(request, response)

    def body_filter(self: Plugin, request: Request, response: Response, data: bytes, is_last: bool) -> bytes:
        assert is_last
        return data + b"?"

    classes = [plugin("whole", response=respond), plugin("parts", priority=1, body_filter=body_filter)]
    with running(**rows(*classes)) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        peer = upstream.accept()
        peer.read_head()
        for place in range(len(ANSWER)):
            peer.send(ANSWER[place : place + 1])
        status, fields, body = client.read_answer()
        assert (status, fields["x-whole"], fields["content-length"], body) == (202, "yes", "8", b"[hello]?")
        client.send(GET)
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        assert client.read_answer()[2] == b"[hello]?"


def test_an_answer_that_breaks_off_while_it_is_gathered_is_a_502() -> None:
    with running(**rows(plugin(response=lambda self, request, response: None))) as (proxy, upstream):
        client = proxy.client()
        client.send(POST)
        peer = upstream.accept()
        peer.read_head()
        peer.send(ANSWER[:-1])
        peer.close()
        assert client.read_answer()[0] == 502


def test_an_answer_too_long_to_be_gathered_is_a_502(log: Callable[[], str]) -> None:
    with running(**rows(plugin(response=lambda self, request, response: None))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        peer = upstream.accept()
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BODY_LIMIT + 1))
        with pytest.raises(OSError, match="Broken pipe|reset"):
            peer.send(bytes(2 * BODY_LIMIT))
        assert client.read_answer()[0] == 502
    assert f"longer than the {BODY_LIMIT} bytes" in log()


@pytest.mark.parametrize("has_expect", [False, True])
def test_a_plugin_that_reads_the_body_gets_it_whole(has_expect: bool) -> None:
    def access(self: Plugin, request: Request) -> None:
        assert request.body == (b"body" if request.method == "POST" else b"")
        if request.body:
            request.body += b" and soul"

    request = POST.replace(b"\r\n\r\nbody", b"\r\nExpect: 100-continue\r\n\r\n") if has_expect else POST[:-4]
    with running(**rows(plugin(access=access, reads_body=True))) as (proxy, upstream):
        client = proxy.client()
        client.send(request)
        if has_expect:
            assert client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        peer = upstream.accept()
        head = peer.read_head()
        assert b"Content-Length: 13\r\n" in head
        assert b"Expect" not in head
        assert peer.read_exactly(13) == b"body and soul"
        peer.send(ANSWER)
        assert client.read_answer()[2] == b"hello"
        client.send(GET)
        assert b"Length" not in peer.read_head()


def test_a_body_too_long_to_be_seen_goes_on_all_the_same() -> None:
    seen = Seen()

    def access(self: Plugin, request: Request) -> None:
        seen.events.append(request.body)

    size = BODY_LIMIT + 300_000
    with running(**rows(plugin(access=access, reads_body=True))) as (proxy, upstream):
        client = proxy.client()
        sending = threading.Thread(
            target=client.send, args=(POST[:-4].replace(b"Length: 4", b"Length: %d" % size) + bytes(size),)
        )
        sending.start()
        peer = upstream.accept()
        peer.read_head()
        assert peer.read_exactly(size) == bytes(size)
        sending.join()
        peer.send(ANSWER)
        assert client.read_answer()[0] == 200
    assert seen.events == [None]


def test_answers_of_the_gateway_pass_the_filters() -> None:
    def header_filter(self: Plugin, request: Request, response: Response) -> None:
        assert response.source == "error"
        response.headers["X-Status"] = str(response.status)

    def body_filter(self: Plugin, request: Request, response: Response, data: bytes, is_last: bool) -> bytes:
        return data + b"!"

    seen = Seen()

    def log(self: Plugin, request: Request, response: Response) -> None:
        seen.events.append((response.status, request.route and request.route.name, response.upstream_ms))

    probe = plugin(header_filter=header_filter, body_filter=body_filter, log=log)
    routes = [{"name": "rt", "paths": ["/there"]}]
    with running(routes=routes, **rows(probe)) as (proxy, _):
        client = proxy.client()
        for path, status, name in ((b"/a", 404, None), (b"/there", 503, "rt")):
            client.send(GET.replace(b"/a", path))
            found, fields, body = client.read_answer()
            assert (found, fields["x-status"], body[-2:]) == (status, str(status), b"}!")
            assert seen.wait(1).pop() == (status, name, None)


def test_the_log_knows_how_it_went() -> None:
    seen = Seen()

    async def log(self: Plugin, request: Request, response: Response) -> None:
        await asyncio.sleep(0)
        seen.events.append((request, response))

    with running(**rows(plugin(log=log))) as (proxy, upstream):
        _, (_, fields, _) = exchange(proxy, upstream)
        request, response = seen.wait(1)[0]
    assert request.id == fields["x-kong-request-id"]
    assert (response.status, response.headers["x-from"], response.source) == (200, "up", "service")
    assert response.bytes_sent > 100
    assert response.upstream_ms is not None
    assert response.request_ms >= response.upstream_ms


def test_framing_cannot_be_written_nor_lines_smuggled(log: Callable[[], str]) -> None:
    headers = Headers([("Host", "a")])
    for name in ("Content-Length", "transfer-encoding", "Connection", "TE", "Upgrade"):
        with pytest.raises(ValueError, match="belongs to the gateway"):
            headers[name] = "1"
        with pytest.raises(ValueError, match="belongs to the gateway"):
            del headers[name]
    for value in ("a\r\nb: c", "a\nb", "\0", "\u20ac"):
        with pytest.raises(ValueError, match="cannot hold"):
            headers.add("X-A", value)
    for name in ("", "a b", "a:b", "a\r\n", "\xe9"):
        with pytest.raises(ValueError, match="can be called"):
            headers.add(name, "1")
    assert not headers.is_changed

    def access(self: Plugin, request: Request) -> None:
        for attribute, value in (
            ("path", "/x"), ("upstream_path", "/a b"), ("upstream_path", "x"), ("query", "a b"),
            ("query", "a#b"), ("method", "get"), ("upstream_host", "a/b"), ("body", b"x"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match="route is found|no path|visible|no method|no host|not here"):
                setattr(request, attribute, value)

    with running(**rows(plugin(access=access))) as (proxy, upstream):
        assert exchange(proxy, upstream, POST)[1][0] == 200
    assert log() == ""


def test_two_hosts_cannot_be_made(log: Callable[[], str]) -> None:
    def access(self: Plugin, request: Request) -> None:
        request.headers.add("Host", "other")

    with running(**rows(plugin(access=access))) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        assert client.read_answer()[0] == 500
    assert "what plugins made of it is no valid request" in log()


def test_what_plugins_know_of_the_consumer_chooses_the_later_ones() -> None:
    def authenticate(self: Plugin, request: Request) -> None:
        request.consumer = Consumer(request.headers["x-who"])

    def say(self: Plugin, request: Request) -> None:
        request.headers["X-Said"] = str(self.config["say"])

    classes = [plugin("auth", priority=50, access=authenticate), plugin("say", access=say)]
    consumer = "2b0b7b4f-0000-4000-8000-000000000001"
    plugins = [
        {"name": "auth", "config": {}},
        {"name": "say", "config": {"say": "all"}},
        {"name": "say", "config": {"say": "one"}, "consumer": {"id": consumer}},
    ]
    with running(plugin_classes={one.name: one for one in classes}, plugins=plugins) as (proxy, upstream):
        client = proxy.client()
        for who, said in ((consumer, b"one"), ("nobody", b"all")):
            client.send(GET.replace(b"X-One: 1", b"X-Who: " + who.encode()))
            peer = upstream.peers[0] if upstream.peers else upstream.accept()
            assert b"X-Said: " + said + b"\r\n" in peer.read_head()
            peer.send(ANSWER)
            client.read_answer()


def test_a_plugin_that_does_not_start_closes_its_routes_alone(log: Callable[[], str]) -> None:
    def start(self: Plugin, config: Any) -> None:
        raise ValueError("no such key")

    routes = [
        {"name": "with", "paths": ["/with"], "service": "svc"},
        {"name": "rt", "paths": ["/"], "service": "svc"},
    ]
    broken = type("Broken", (Plugin,), {"name": "probe", "__init__": start})
    with running(
        routes=routes,
        plugin_classes={"probe": broken},
        plugins=[{"name": "probe", "config": {}, "route": "with"}],
    ) as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET /with HTTP/1.1\r\nHost: a\r\n\r\n")
        status, _, body = client.read_answer()
        assert (status, json.loads(body)["message"]) == (503, "plugin 'probe' does not start: no such key")
        assert exchange(proxy, upstream)[1][0] == 200
    assert "route 'with' answers 503: plugin 'probe' does not start: no such key" in log()


def test_a_configuration_keeps_its_object_across_generations() -> None:
    seen = Seen()

    def access(self: Plugin, request: Request) -> None:
        seen.events.append(id(self))

    probe = plugin(access=access)
    row = {"name": "probe", "config": {}, "id": "2b0b7b4f-0000-4000-8000-000000000002"}
    with running(plugin_classes={"probe": probe}, plugins=[row]) as (proxy, upstream):
        services = [{"name": "svc", "host": "127.0.0.1", "port": upstream.port}]
        routes = [{"name": "rt", "paths": ["/"], "service": "svc"}]
        exchange(proxy, upstream)
        client = proxy.client()
        for plugins in ([row], [{**row, "config": {"a": 1}}]):
            proxy.apply(image_of(services, routes, plugins=plugins, served_plugins=frozenset({"probe"})))
            client.send(GET)
            upstream.peers[0].read_head()
            upstream.peers[0].send(ANSWER)
            client.read_answer()
    first, second, third = seen.events
    assert first == second
    assert third != first


def test_plugins_see_a_tunnel_begin_and_end() -> None:
    seen = Seen()
    upgrade = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    def header_filter(self: Plugin, request: Request, response: Response) -> None:
        response.headers["X-Seen"] = str(response.status)

    def body_filter(self: Plugin, request: Request, response: Response, data: bytes, is_last: bool) -> bytes:
        raise AssertionError("a tunnel has no body")

    def log(self: Plugin, request: Request, response: Response) -> None:
        seen.events.append(response.status)

    probe = plugin(header_filter=header_filter, body_filter=body_filter, log=log)
    with running(**rows(probe)) as (proxy, upstream):
        client = proxy.client()
        client.send(upgrade)
        peer = upstream.accept()
        peer.read_head()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert b"X-Seen: 101" in client.read_head()
        client.send(b"ping")
        assert peer.read_exactly(4) == b"ping"
        peer.send(b"pong")
        assert client.read_exactly(4) == b"pong"
        assert seen.events == []
        client.close()
        assert seen.wait(1) == [101]
