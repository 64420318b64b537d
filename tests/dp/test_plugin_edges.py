"""Plugins where other rules of the byte path meet them: bodies that come during a wait, hop-by-hop names,
answers that end by close, and heads that grow."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from fastgw.dp.plugins.base import Plugin
from fastgw.dp.plugins.messages import Request, Response
from tests.dp.rig import DEADLINE_S, running
from tests.dp.test_plugins import ANSWER, GET, exchange, plugin, rows

HEAD = b"POST /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 8\r\n\r\n"


@pytest.mark.parametrize("before", [b"", b"half", b"halfhalf"], ids=["none", "half", "whole"])
def test_a_body_that_came_while_rewrite_waited_is_seen_by_access(before: bytes) -> None:
    gate = threading.Event()
    seen: list[bytes | None] = []

    async def rewrite(self: Plugin, request: Request) -> None:
        await asyncio.to_thread(gate.wait, DEADLINE_S)

    def access(self: Plugin, request: Request) -> None:
        seen.append(request.body)

    reading = plugin("reading", reads_body=True, phases={"rewrite": rewrite, "access": access})
    with running(**rows(reading)) as (proxy, upstream):
        client = proxy.client()
        client.send(HEAD + before)
        gate.set()
        client.send(b"halfhalf"[len(before) :])
        peer = upstream.accept()
        peer.read_head()
        assert peer.read_exactly(8) == b"halfhalf"
        peer.send(ANSWER)
        assert client.read_answer()[2] == b"hello"
    assert seen == [b"halfhalf"]


def test_connection_cannot_name_what_a_plugin_adds() -> None:
    def access(self: Plugin, request: Request) -> None:
        request.headers["X-Consumer-ID"] = "somebody"

    nominating = GET.replace(b"X-One: 1", b"X-One: 1\r\nX-Mine: 1\r\nConnection: x-consumer-id, x-mine")
    with running(**rows(plugin(access=access))) as (proxy, upstream):
        head, _ = exchange(proxy, upstream, nominating)
    assert b"\r\nX-Consumer-ID: somebody\r\n" in head
    assert b"x-mine" not in head.lower()
    assert b"\r\nX-One: 1\r\n" in head


def test_connection_of_an_answer_cannot_name_what_a_plugin_adds() -> None:
    def header_filter(self: Plugin, request: Request, response: Response) -> None:
        response.headers["X-Frame-Options"] = "DENY"

    answer = ANSWER.replace(b"X-From: up", b"X-From: up\r\nConnection: x-frame-options, x-from")
    with running(**rows(plugin(header_filter=header_filter))) as (proxy, upstream):
        _, (_, fields, _) = exchange(proxy, upstream, answer=answer)
    assert fields["x-frame-options"] == "DENY"
    assert "x-from" not in fields


@pytest.mark.parametrize("phase", ["body_filter", "response"])
def test_an_error_at_the_end_of_an_answer_that_ends_by_close(phase: str) -> None:
    def fail_at_end(self: Plugin, request: Request, response: Response, *rest: Any) -> Any:
        if phase == "response" or rest[1]:
            raise RuntimeError("broken")
        return rest[0]

    with running(**rows(plugin("culprit", phases={phase: fail_at_end}))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        peer = upstream.accept()
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        if phase == "body_filter":
            client.read_until(b"hello\r\n")
        peer.close()
        if phase == "response":
            assert client.read_answer()[0] == 500
        else:
            assert not client.read_to_end().endswith(b"0\r\n\r\n")
        # The worker lives.
        assert exchange(proxy, upstream, GET.replace(b"/a", b"/b"))[0].startswith(b"GET /b")


def test_a_head_that_a_plugin_lets_grow_too_far_is_a_500() -> None:
    def header_filter(self: Plugin, request: Request, response: Response) -> None:
        for _place in range(200):
            response.headers.add("X-Long", "v" * 8000)

    with running(**rows(plugin(header_filter=header_filter))) as (proxy, upstream):
        _, (status, _, _) = exchange(proxy, upstream)
        assert status == 500


@pytest.mark.parametrize("phase", ["rewrite", "access"])
def test_who_asked_for_a_body_and_who_sends_none(phase: str) -> None:
    """GET made HEAD and HEAD made GET: each side is framed by what was said on it (RFC 9110 §9.3.2)."""

    def change(self: Plugin, request: Request) -> None:
        request.method = "HEAD" if request.method == "GET" else "GET"

    with running(**rows(plugin(phases={phase: change}))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        peer = upstream.accept()
        assert peer.read_head().startswith(b"HEAD /a?x=1 ")
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        assert client.read_answer()[2] == b""
        client.send(GET.replace(b"GET", b"HEAD"))
        assert peer.read_head().startswith(b"GET /a?x=1 ")
        peer.send(ANSWER)
        head = client.read_head()
        assert b"\r\nContent-Length: 5\r\n" in head
        # Both connections are in frame: this answer is the next one's.
        client.send(GET)
        assert peer.read_head().startswith(b"HEAD /a?x=1 ")
        peer.send(b"HTTP/1.1 203 OK\r\nContent-Length: 5\r\n\r\n")
        assert client.read_answer()[0] == 203


@pytest.mark.parametrize("phase", ["rewrite", "access"])
def test_a_request_that_a_plugin_made_unsafe_is_not_sent_twice(phase: str) -> None:
    def change(self: Plugin, request: Request) -> None:
        request.method = "POST"

    with running(**rows(plugin(phases={phase: change}))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        peer = upstream.accept()
        assert peer.read_head().startswith(b"POST /a?x=1 ")
        peer.close()
        assert client.read_answer()[0] == 502


@pytest.mark.parametrize("is_async", [False, True])
def test_a_body_that_a_plugin_adds_goes_out_on_new_and_kept_connections(is_async: bool) -> None:
    def access(self: Plugin, request: Request) -> Any:
        async def nothing() -> None:
            await asyncio.sleep(0)

        request.body = b"added"
        return nothing() if is_async else None

    with running(**rows(plugin(access=access))) as (proxy, upstream):
        client = proxy.client()
        peer = None
        for _ in range(3):
            client.send(GET)
            peer = peer or upstream.accept()
            assert b"\r\nContent-Length: 5\r\n" in peer.read_head()
            assert peer.read_exactly(5) == b"added"
            peer.send(ANSWER)
            assert client.read_answer()[2] == b"hello"


def test_a_request_with_a_body_that_a_plugin_adds_asks_for_no_tunnel() -> None:
    def access(self: Plugin, request: Request) -> None:
        request.body = b"added"

    upgrade = GET.replace(b"X-One: 1", b"Connection: Upgrade\r\nUpgrade: websocket")
    with running(**rows(plugin(access=access))) as (proxy, upstream):
        head, (status, _, _) = exchange(proxy, upstream, upgrade)
    assert b"Upgrade" not in head
    assert status == 200
