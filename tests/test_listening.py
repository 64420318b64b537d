"""Listening sockets: what the flags of a listen string become."""

from __future__ import annotations

import socket

import pytest

from fastgw.errors import ListenError
from fastgw.listening import address_of, adopt_listener, open_listener, open_listeners
from fastgw.settings import Listen


def option(listener: socket.socket, level: int, name: int) -> int:
    return listener.getsockopt(level, name)


def opened(text: str) -> socket.socket:
    (listen,) = Listen.parse(text)
    return open_listener(listen, name="proxy_listen")


def test_flags_reach_the_kernel() -> None:
    with opened("127.0.0.1:0 reuseport deferred backlog=77 so_keepalive=30s:5s:4") as listener:
        assert option(listener, socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert option(listener, socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
        assert option(listener, socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        probes = [
            option(listener, socket.IPPROTO_TCP, name)
            for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]
        assert probes == [30, 5, 4]
        # Accepted connections are probed, too.
        with socket.create_connection(listener.getsockname()) as client:
            client.send(b"x")
            listener.settimeout(10)
            accepted, _ = listener.accept()
            with accepted:
                assert option(accepted, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert not listener.get_inheritable()


def test_without_flags_nothing_is_set() -> None:
    with opened("127.0.0.1:0") as listener:
        assert not option(listener, socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert not option(listener, socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
        assert not option(listener, socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("is_only", [True, False])
def test_ipv6only(is_only: bool) -> None:
    with opened(f"[::]:0 ipv6only={'on' if is_only else 'off'}") as listener:
        assert bool(option(listener, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)) == is_only
        assert address_of(listener).startswith("[::]:")


def test_a_socket_that_is_handed_over_goes_by_the_new_flags() -> None:
    with opened("127.0.0.1:0 deferred") as listener:
        (listen,) = Listen.parse("127.0.0.1:0 backlog=99")
        adopt_listener(listener, listen)
        assert not option(listener, socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)


def test_all_or_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listens = Listen.parse(f"127.0.0.1:0, 127.0.0.1:{port}")
        with pytest.raises(ListenError, match=f"proxy_listen 127.0.0.1:{port}: the port is taken"):
            open_listeners(listens, name="proxy_listen")
