"""A generation that one worker cannot take for reasons of its own: refused for now, and nothing ends of it."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fastgw.dp.belief import SIGNATURES_FILE
from fastgw.dp.sync import Applied, Refused
from fastgw.wire.signature import SigningKey, TrustedKeys
from tests.dp.node import Node, ask, routed, run, running_node

MATCHED = 502  # nothing listens where the routes lead


@contextlib.contextmanager
def limited(pid: int, which: int, value: int) -> Iterator[None]:
    """Leave a process so much of something, until the end of the block."""
    before = resource.prlimit(pid, which, (value, resource.getrlimit(which)[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, which, before)


async def refused_by_worker_0(node: Node, version: int) -> str:
    """Apply another version; return the reason that worker 0 gives for not taking it."""
    before = node.pids
    result = await node.apply(routed(version, f"/v{version}"))
    assert isinstance(result, Refused), result
    assert result.is_passing
    assert node.pids == before, "no worker died of it"
    assert node.supervisor.state().version < version
    (fault,) = result.faults
    assert fault["worker"] == 0
    return str(fault["reason"])


def test_a_worker_that_gets_no_memory_refuses_for_now(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path) as node:
            assert isinstance(await node.apply(routed(1, "/v1")), Applied)
            with limited(node.pids[0], resource.RLIMIT_AS, 1 << 20):
                assert "Cannot allocate memory" in await refused_by_worker_0(node, 2)
                assert await node.statuses("/v1") == {MATCHED}
            assert isinstance(await node.apply(routed(2, "/v2")), Applied)
            assert await node.statuses("/v2") == {MATCHED}

    run(test())


def test_a_worker_that_gets_no_descriptors_refuses_for_now(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path) as node:
            assert isinstance(await node.apply(routed(1, "/v1")), Applied)
            with limited(node.pids[0], resource.RLIMIT_NOFILE, 0):
                assert "descriptors" in await refused_by_worker_0(node, 2)
            assert isinstance(await node.apply(routed(2, "/v2")), Applied)
            assert await node.statuses("/v2") == {MATCHED}

    run(test())


def test_signatures_that_cannot_be_kept_leave_nothing_behind(tmp_path: Path) -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))

    async def test() -> None:
        async with running_node(tmp_path, keys=TrustedKeys.of([key.public])) as node:
            made = routed(1, "/v1")
            made = made._replace(signatures=[key.sign("c", 1, made.digest)], cluster_id="c")
            in_the_way = tmp_path / "dp" / f"{SIGNATURES_FILE}.new"
            in_the_way.mkdir()
            result = await node.apply(made)
            assert isinstance(result, Refused)
            assert result.is_passing
            assert "cannot store the configuration" in result.faults[0]["reason"]
            assert {path.name for path in (tmp_path / "dp").iterdir()} == {in_the_way.name, "lock"}
            in_the_way.rmdir()
            assert isinstance(await node.apply(made), Applied)
            assert (await ask(node.address, "/v1")).status == MATCHED

    run(test())
