"""What idle connections cost in memory: `python -m bench.load.idle --help`.

Each connection has asked once and been answered before it is left alone, so that whatever a request makes a
worker keep is counted; over TLS it has sent 1 MiB with its request. Memory is that of the data plane and
all its processes, as each process has it resident.
"""

from __future__ import annotations

import resource
import socket
import ssl
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console

from bench.load.gateway import Gateway, ask_until, start_gateway
from bench.load.machine import BenchError, Machine, describe, require_tools
from bench.load.processes import Processes, rss_bytes
from bench.load.report import describe_machine, write_json

_REQUEST: Final = b"GET /idle/small HTTP/1.1\r\nHost: example.com\r\nUser-Agent: idle\r\n\r\n"
_UPLOAD_BYTES: Final = 1 << 20
_UPLOAD: Final = (
    b"POST /idle/bench/upload HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n" % _UPLOAD_BYTES
) + bytes(_UPLOAD_BYTES)
_MOST_TLS_BYTES: Final = 40 * 1024
_SPARE_DESCRIPTORS: Final = 256
_TIMEOUT_S: Final = 10.0
_SETTLE_S: Final = 1.0
_MOST_BYTES: Final = 50_000_000


class IdleReport(msgspec.Struct, frozen=True):
    machine: Machine
    connections: int
    tls: bool
    rss_before: int
    """Bytes, with one connection after another having been served."""
    rss_idle: int
    """The same with all of them open."""
    rss_after: int
    """The same when they are closed."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--connections", type=click.IntRange(100, 1_000_000), default=10_000, help="How many.")
@click.option("--workers", type=click.IntRange(1, 64), default=2, help="Workers of the data plane.")
@click.option("--tls", is_flag=True, help="Over TLS, each after a request with 1 MiB.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              default=Path("build/bench/idle.json"), help="Where the result goes.")  # fmt: skip
def main(connections: int, workers: int, tls: bool, json_path: Path) -> None:
    """Open keep-alive connections, ask once on each, leave them alone, and read the memory.

    Ends with status 1 when 10,000 of them take 50 MB or more, by the memory that one takes; over TLS when one
    takes more than 40 KiB.
    """
    console = Console()
    try:
        require_tools(["nginx"])
        _raise_limit(connections + _SPARE_DESCRIPTORS)
        machine = describe(["nginx"])
        console.print(describe_machine(machine), highlight=False, soft_wrap=True)
        with (
            tempfile.TemporaryDirectory(prefix="fastgw-bench-") as directory,
            Processes(Path(directory)) as processes,
        ):
            gateway = start_gateway(processes, workers=workers, nginx_http_keepalive_timeout=3600)
            report = _measure(machine, gateway, connections, tls=tls)
    except (BenchError, OSError) as error:
        raise click.ClickException(str(error)) from None
    taken = report.rss_idle - report.rss_before
    console.print(
        f"{connections} idle connections{' over TLS' if tls else ''}:"
        f" {taken / 1e6:.1f} MB above {report.rss_before / 1e6:.1f} MB,"
        f" {taken / connections:.0f} bytes each; {report.rss_after / 1e6:.1f} MB when they are closed",
        highlight=False,
        soft_wrap=True,
    )
    write_json(json_path, report)
    console.print(f"Written to {json_path}.")
    if taken / connections > (_MOST_TLS_BYTES if tls else _MOST_BYTES / 10_000):
        sys.exit(1)


def _raise_limit(wanted: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchError(f"{wanted} descriptors are needed, {hard} are allowed: raise 'ulimit -Hn'")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _measure(machine: Machine, gateway: Gateway, count: int, *, tls: bool) -> IdleReport:
    with gateway.admin() as admin, gateway.proxy() as proxy:
        url = f"http://127.0.0.1:{gateway.upstream_port}/"
        service = str(admin.call("POST", "/services", {"name": "idle", "url": url})["id"])
        admin.call("POST", f"/services/{service}/routes", {"name": "idle", "paths": ["/idle"]})
        ask_until(proxy, "/idle/small", lambda status, _: status == 200)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if tls else None
    if context is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    port = gateway.tls_port if tls else gateway.proxy_port
    for _ in range(100):
        _ask(port, context).close()
    before = _settled_rss(gateway.dp_pid)
    connections = [_ask(port, context) for _ in range(count)]
    idle = _settled_rss(gateway.dp_pid)
    for connection in connections:
        connection.close()
    return IdleReport(machine, count, tls, before, idle, _settled_rss(gateway.dp_pid))


def _ask(port: int, context: ssl.SSLContext | None) -> socket.socket:
    """A connection that has been served once."""
    connection = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
    if context is not None:
        connection = context.wrap_socket(connection)
    connection.sendall(_REQUEST if context is None else _UPLOAD)
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = connection.recv(65536)
        if not data:
            connection.close()
            raise BenchError("the data plane closed a connection: it is at its limit, give it more --workers")
        answer += data
    if b"Connection: keep-alive" not in answer:
        connection.close()
        raise BenchError("the data plane keeps no more connections: give it more --workers")
    return connection


def _settled_rss(pid: int) -> int:
    time.sleep(_SETTLE_S)
    return rss_bytes(pid)


if __name__ == "__main__":
    main()
