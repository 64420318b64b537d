"""Statuses without content: what plugins make of them leaves nothing behind for the next answer to begin with."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from fastgw.dp.plugins.base import Plugin
from fastgw.dp.plugins.messages import Answer, Request, Response
from tests.dp.rig import Peer, running
from tests.dp.test_plugins import ANSWER, GET, plugin, rows

BODILESS = (204, 205, 304)


def second_answer(client: Peer) -> tuple[int, Any, bytes]:
    """The answer to one more request on the same connection, which the plugins leave alone."""
    client.send(GET.replace(b"/a?x=1", b"/plain"))
    return client.read_answer()


def access_for(answer: Answer) -> Any:
    def access(self: Plugin, request: Request) -> Answer:
        return answer if request.path == "/a" else Answer(200, "plain")

    return access


@pytest.mark.parametrize("status", BODILESS)
@pytest.mark.parametrize("body", ["text", {"message": "x"}, None])
def test_an_early_answer(status: int, body: Any) -> None:
    with running(**rows(plugin(access=access_for(Answer(status, body))))) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        got, fields, content = client.read_answer()
        assert (got, content) == (status, b"")
        assert fields.get("content-length") == ("0" if status == 205 else None)
        assert second_answer(client)[::2] == (200, b"plain")


@pytest.mark.parametrize("status", BODILESS)
def test_a_filter_makes_it_so_of_our_own_answer(status: int) -> None:
    def header_filter(self: Plugin, request: Request, response: Response) -> None:
        if request.path == "/a":
            response.status = status

    classes = plugin(access=lambda self, request: Answer(200, "plain"), header_filter=header_filter)
    with running(**rows(classes)) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        got, fields, content = client.read_answer()
        assert (got, content) == (status, b"")
        assert fields.get("content-length") == ("0" if status == 205 else None)
        assert second_answer(client)[::2] == (200, b"plain")


@pytest.mark.parametrize("status", BODILESS)
def test_a_filter_makes_it_so_of_the_upstreams(status: int) -> None:
    def header_filter(self: Plugin, request: Request, response: Response) -> None:
        if request.path == "/a":
            response.status = status

    with running(**rows(plugin(header_filter=header_filter))) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        peer = upstream.accept()
        peer.read_head()
        peer.send(ANSWER)
        # A 304 may tell the length that a 200 would have had.
        assert client.read_head().startswith(b"HTTP/1.1 %d " % status)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read_to_end() == b""


def test_a_filter_gives_content_to_what_had_none() -> None:
    def header_filter(self: Plugin, request: Request, response: Response) -> None:
        response.status = 200

    classes = plugin(access=lambda self, request: Answer(204), header_filter=header_filter)
    with running(**rows(classes)) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        got, fields, content = client.read_answer()
        assert (got, fields["content-length"], content) == (200, "0", b"")
