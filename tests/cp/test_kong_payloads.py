"""Payloads for Kong's data planes: made once for all, and made again when one failed."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from fastgw.cp import kong_payloads
from fastgw.cp.kong_payloads import KongPayloads, Payload
from fastgw.errors import SnapshotError
from fastgw.wire.kong_v1.versions import KongVersion
from fastgw.wire.offering import Offering
from tests.cp.cluster_nodes import run
from tests.wire.kong_v1.rows import CLUSTER_ID, snapshot_of, some_rows

V39, V32 = KongVersion(3, 9), KongVersion(3, 2)
SNAPSHOT = snapshot_of(**some_rows())


class Source:
    """An offering that counts how often it is read, and fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.read = 0
        self.failures = failures
        self.offering = Offering(1, SNAPSHOT.digest, self._pack)

    def _pack(self) -> bytes:
        self.read += 1
        if self.failures:
            self.failures -= 1
            raise SnapshotError("not now")
        return SNAPSHOT.pack()


def envelope(payload: Payload) -> dict[str, object]:
    frame = b"".join(payload.pieces)
    assert frame[0] == 0x82
    found: dict[str, object] = json.loads(gzip.decompress(frame[-payload.size :]))
    return found


def test_whoever_comes_meanwhile_waits_for_the_same_one() -> None:
    async def scenario() -> None:
        payloads, source = KongPayloads(CLUSTER_ID), Source()
        exports = await asyncio.gather(*(payloads.export(source.offering) for _ in range(5)))
        assert all(export is exports[0] for export in exports)
        made = await asyncio.gather(*(payloads.payload(exports[0], V39) for _ in range(5)))
        assert all(payload is made[0] for payload in made)
        assert source.read == 1
        assert envelope(made[0])["config_hash"] == exports[0].hashes.config
        assert payloads.applied_by(exports[0].hashes.config) == (1, SNAPSHOT.digest)
        assert payloads.applied_by("f" * 32) is None

    run(scenario())


def test_one_who_stops_waiting_takes_nothing_from_the_others() -> None:
    async def scenario() -> None:
        payloads, source = KongPayloads(CLUSTER_ID), Source()
        first = asyncio.ensure_future(payloads.export(source.offering))
        second = asyncio.ensure_future(payloads.export(source.offering))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).routes == 3

    run(scenario())


def test_what_failed_is_made_again() -> None:
    async def scenario() -> None:
        payloads, source = KongPayloads(CLUSTER_ID), Source(failures=1)
        with pytest.raises(SnapshotError, match="not now"):
            await payloads.export(source.offering)
        assert (await payloads.export(source.offering)).plugins == {"key-auth", "rate-limiting"}

    run(scenario())


def test_a_forgotten_table_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a data plane of another release, that comes later."""
    monkeypatch.setattr(kong_payloads, "TABLE_KEPT_S", 0.0)

    async def scenario() -> None:
        payloads, source = KongPayloads(CLUSTER_ID), Source()
        export = await payloads.export(source.offering)
        newer = envelope(await payloads.payload(export, V39))
        older = envelope(await payloads.payload(export, V32))
        assert newer["hashes"] == older["hashes"]
        assert newer["config_table"] != older["config_table"]

    run(scenario())
