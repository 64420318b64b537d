"""ssl listeners of a whole node: certificates reach the workers, and can be replaced while it runs."""

from __future__ import annotations

import asyncio
import signal
import ssl
from pathlib import Path

import pytest

from fastgw.errors import CertificateError
from fastgw.tls.keypair import KeyPair
from tests.dp.node import Node, routed, run, running_node, until
from tests.tls.authority import Authority

CA = Authority()
LISTEN = {"proxy_listen": "127.0.0.1:0, 127.0.0.1:0 ssl"}


async def presented(node: Node, context: ssl.SSLContext) -> tuple[bytes, int]:
    """The certificate that a new connection gets, and the status of a request on it."""
    host, _, port = node.supervisor.addresses[1].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="gw.example")
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: gw.example\r\nConnection: close\r\n\r\n")
        status = int((await reader.readline()).split()[1])
        await reader.read()
    finally:
        writer.close()
    return certificate, status


def trusting_all() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def write(pair: KeyPair, directory: Path) -> dict[str, str]:
    (directory / "gw.crt").write_bytes(pair.certificate_pem)
    (directory / "gw.key").write_bytes(pair.key_pem)
    (directory / "gw.key").chmod(0o600)
    return {"ssl_cert": str(directory / "gw.crt"), "ssl_cert_key": str(directory / "gw.key")}


def test_without_certificates_a_made_one_is_presented(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1, flags=LISTEN) as node:
            await node.apply(routed(1, "/x"))
            certificate, status = await presented(node, trusting_all())
            assert status == 404
            pem = (tmp_path / "ssl" / "default-ec.crt").read_text()
            assert ssl.DER_cert_to_PEM_cert(certificate) == pem

    run(test())


def test_replaced_certificates_serve_new_handshakes_on_every_worker(tmp_path: Path) -> None:
    first, second = CA.issue("gw.example"), CA.issue("gw.example")

    async def test() -> None:
        flags = write(first, tmp_path)
        async with running_node(tmp_path, workers=2, flags=LISTEN | flags) as node:
            context = CA.trusting_context()
            assert {(await presented(node, context))[0] for _ in range(6)} == {first.der}

            (tmp_path / "gw.key").write_bytes(b"cut short")
            await node.supervisor.read_certificates()
            assert "the certificates stay as they are" in node.log()
            assert {(await presented(node, context))[0] for _ in range(6)} == {first.der}

            write(second, tmp_path)
            await node.supervisor.read_certificates()
            assert {(await presented(node, context))[0] for _ in range(6)} == {second.der}

            pids = node.pids
            for worker in range(2):
                node.signal(worker, signal.SIGKILL)
            await until(lambda: len(set(node.pids) - set(pids)) == 2, "both workers are replaced")
            await node.all_running()
            assert {(await presented(node, context))[0] for _ in range(6)} == {second.der}

    run(test())


def test_a_worker_that_starts_meanwhile_presents_what_was_replaced(tmp_path: Path) -> None:
    first, second = CA.issue("gw.example"), CA.issue("gw.example")

    async def test() -> None:
        flags = write(first, tmp_path)
        async with running_node(tmp_path, workers=1, flags=LISTEN | flags) as node:
            (worker,) = node.workers
            pid = worker.pid
            node.signal(0, signal.SIGKILL)
            await until(lambda: worker.pid not in (pid, None), "another process")
            # It has been told the certificates of this moment, and does not run yet.
            node.signal(0, signal.SIGSTOP)
            write(second, tmp_path)
            await node.supervisor.read_certificates()
            node.signal(0, signal.SIGCONT)
            await node.all_running()
            assert (await presented(node, CA.trusting_context()))[0] == second.der

    run(test())


def test_a_certificate_that_cannot_serve_ends_the_start(tmp_path: Path) -> None:
    async def test() -> None:
        flags = write(CA.issue("gw.example"), tmp_path)
        (tmp_path / "gw.crt").unlink()
        with pytest.raises(CertificateError, match=r"ssl_cert .*gw\.crt: cannot be read"):
            async with running_node(tmp_path, flags=LISTEN | flags):
                pass

    run(test())
