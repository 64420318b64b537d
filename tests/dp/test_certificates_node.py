"""Certificates of the configuration on real workers: by name, changed under traffic, refused, kept secret."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from fastgw.dp.sync import Applied, Refused
from fastgw.tls.keypair import KeyPair
from tests.dp.node import DEADLINE_S, Node, incoming, run, running_node, until
from tests.routing.snapshots import Row, certificate, route, service, snapshot, sni
from tests.tls.authority import Authority

CA = Authority()
ONE, TWO, THREE = (CA.issue("*.example", name) for name in ("one.example", "two.example", "three.example"))
RSA_PAIR = CA.issue("one.example", key=rsa.generate_private_key(65537, 2048))
FLAGS = {"proxy_listen": "127.0.0.1:0, 127.0.0.1:0 ssl", "log_level": "debug"}
ROUTES = (service(1, host="127.0.0.1", port=9), route(101, to=1, paths=["/x"]))


@contextlib.asynccontextmanager
async def tls(
    node: Node, name: str | None, ciphers: str = ""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]]:
    """A connection that asks for *name*, and the certificate that it was shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if ciphers:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    host, _, port = node.supervisor.addresses[1].rpartition(":")
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(
            host, int(port), ssl=context, server_hostname=name or ""
        )
    try:
        yield reader, writer, writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()


async def shown(node: Node, name: str | None, ciphers: str = "") -> bytes:
    async with tls(node, name, ciphers) as (_, _, der):
        return der


async def apply(node: Node, version: int, *rows: Row) -> Applied | Refused:
    return await node.apply(incoming(snapshot(*ROUTES, *rows, version=version)))


def test_names_choose_and_the_clients_abilities_choose_the_type_of_key(tmp_path: Path) -> None:
    rows = (certificate(1, ONE, RSA_PAIR), certificate(2, TWO), certificate(3, THREE))
    names = (sni(11, "One.example", 1), sni(12, "*.two.example", 2), sni(13, "three.*", 3), sni(14, "*", 2))

    async def test() -> None:
        async with running_node(tmp_path, workers=1, flags=FLAGS) as node:
            default = await shown(node, "one.example")
            assert isinstance(await apply(node, 1, *rows, *names), Applied)
            assert await shown(node, "one.EXAMPLE") == ONE.der
            assert await shown(node, "one.example", "ECDHE-RSA-AES128-GCM-SHA256") == RSA_PAIR.der
            assert await shown(node, "x.two.example") == TWO.der
            assert await shown(node, "three.org") == THREE.der
            assert await shown(node, "other.example") == TWO.der
            assert await shown(node, None) == default

    run(test())


def test_a_change_reaches_new_handshakes_on_every_worker_and_cuts_no_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, flags=FLAGS) as node:
            await apply(node, 1, certificate(1, ONE), sni(11, "a.example", 1))
            async with tls(node, "a.example") as (reader, writer, der):
                assert der == ONE.der
                await apply(node, 2, certificate(1, TWO), sni(11, "a.example", 1))
                assert {await shown(node, "a.example") for _ in range(8)} == {TWO.der}
                writer.write(b"GET /nowhere HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
                assert (await reader.readline()).split()[1] == b"404"
            await apply(node, 3, certificate(1, TWO), sni(11, "b.example", 1))
            assert TWO.der not in {await shown(node, "a.example") for _ in range(8)}
            assert {await shown(node, "b.example") for _ in range(8)} == {TWO.der}

            pids = node.pids
            for worker in range(2):
                node.signal(worker, signal.SIGKILL)
            await until(lambda: len(set(node.pids) - set(pids)) == 2, "both workers are replaced")
            await node.all_running()
            assert {await shown(node, "b.example") for _ in range(8)} == {TWO.der}

    run(test())


def test_what_cannot_be_presented_is_a_nack_and_changes_nothing(tmp_path: Path) -> None:
    small = CA.issue("small.example", key=rsa.generate_private_key(65537, 1024))  # noqa: S505 - refused for that

    async def test() -> None:
        async with running_node(tmp_path, workers=1, flags=FLAGS) as node:
            await apply(node, 1, certificate(1, ONE), sni(11, "a.example", 1))
            refused = await apply(node, 2, certificate(1, small), sni(11, "a.example", 1))
            assert isinstance(refused, Refused)
            (fault,) = refused.faults
            assert fault["entity"] == "certificates"
            assert fault["reason"] == "OpenSSL refuses it: ee key too small"
            assert await shown(node, "a.example") == ONE.der

    run(test())


def test_keys_stand_on_disk_for_their_owner_alone_and_in_no_log(tmp_path: Path) -> None:
    def lines_of(pair: KeyPair) -> list[str]:
        return pair.key_pem.decode().splitlines()[1:-1]

    async def test() -> None:
        async with running_node(tmp_path, workers=1, flags=FLAGS) as node:
            await apply(node, 1, certificate(1, ONE), sni(11, "a.example", 1))
            assert await shown(node, "a.example") == ONE.der
            mixed = certificate(1, ONE) | {"key": TWO.key_pem.decode()}
            assert isinstance(await apply(node, 2, mixed, sni(11, "a.example", 1)), Refused)
            log = node.log()
        assert "the key does not belong to the certificate" in log
        assert not [line for pair in (ONE, TWO) for line in lines_of(pair) if line in log]
        stored = [path for path in (tmp_path / "dp").iterdir() if path.suffix == ".image"]
        assert any(lines_of(ONE)[0].encode() in path.read_bytes() for path in stored)
        for path in stored:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(tmp_path / "dp").st_mode) == 0o700

    run(test())
