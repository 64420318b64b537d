"""Signed configurations on a real node: what is taken, and what a start from disk takes."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fastgw.dp.belief import SIGNATURES_FILE, keys_of_settings
from fastgw.dp.seal import Seal
from fastgw.dp.store import CURRENT, Store, StoredImage
from fastgw.dp.sync import Applied, IncomingSnapshot, Refused
from fastgw.errors import SettingsError
from fastgw.settings import load_settings
from fastgw.wire.signature import SigningKey, TrustedKeys, show_public
from tests.dp.node import IMPATIENT, routed, run, running_node, until

KEY, OTHER = (SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2))
KEYS = TrustedKeys.of([KEY.public])
CLUSTER = "the-cluster"
MATCHED = 502  # nothing listens where the routes lead


def signed(version: int, path: str, key: SigningKey = KEY) -> IncomingSnapshot:
    made = routed(version, path)
    return made._replace(signatures=[key.sign(CLUSTER, version, made.digest)], cluster_id=CLUSTER)


def reason_of(result: Applied | Refused) -> str:
    assert isinstance(result, Refused)
    return str(result.faults[0]["reason"])


def test_only_what_is_signed_is_served_and_what_was_served_stays(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1, keys=KEYS) as node:
            assert isinstance(await node.apply(signed(1, "/one")), Applied)
            unsigned = routed(2, "/two")
            assert "is not signed" in reason_of(await node.apply(unsigned))
            assert f"signed by {OTHER.id}" in reason_of(await node.apply(signed(2, "/two", OTHER)))
            stolen = signed(1, "/one").signatures
            moved = unsigned._replace(signatures=stolen, cluster_id=CLUSTER)
            assert "is not of version 2 with the digest" in reason_of(await node.apply(moved))
            elsewhere = signed(2, "/two")._replace(cluster_id="another")
            assert "is of the cluster another" in reason_of(await node.apply(elsewhere))
            # Who lets it change over does not have it take what was signed for the former cluster.
            node.supervisor.pledge.replace("another")
            assert "of this cluster" in reason_of(await node.apply(elsewhere))
            assert await node.statuses("/one", 2) == {MATCHED}
            assert node.log().count("refused version 2") == 5

    run(test())


def test_a_poisoned_one_is_refused_by_all_when_one_worker_does_not_take_it(tmp_path: Path) -> None:
    """Well signed, and yet one worker does not prepare it: it is neither served nor kept."""

    async def test() -> None:
        async with running_node(tmp_path, deadlines=IMPATIENT, keys=KEYS) as node:
            assert isinstance(await node.apply(signed(1, "/one")), Applied)
            stopped = node.workers[0].pid
            node.signal(0, signal.SIGSTOP)
            assert "worker 0" in reason_of(await node.apply(signed(2, "/two")))
            assert node.supervisor.state().version == 1
            kept = json.loads((tmp_path / "dp" / SIGNATURES_FILE).read_text())
            assert [one["version"] for one in kept] == [1]
            await until(lambda: node.workers[0].pid not in (stopped, None), "the hung worker is replaced")
            await node.all_running()
            assert await node.statuses("/one") == {MATCHED}

    run(test())


def test_a_start_from_encrypted_files_is_checked_too_and_compiles_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        seal = Seal("0123456789abcdef" * 2)

        def sealed_store(prefix: Path) -> Store:
            return Store(prefix, seal=seal)

        async with running_node(tmp_path, workers=1, keys=KEYS, make_store=sealed_store) as node:
            assert isinstance(await node.apply(signed(1, "/one")), Applied)
        async with running_node(tmp_path, workers=1, keys=KEYS, make_store=sealed_store) as node:
            assert isinstance(node.store.load(), StoredImage)
            assert await node.statuses("/one", 2) == {MATCHED}
        (tmp_path / "dp" / SIGNATURES_FILE).unlink()
        async with running_node(tmp_path, workers=1, keys=KEYS, make_store=sealed_store, wait=False) as node:
            assert node.supervisor.state().digest == ""

    run(test())


def test_a_start_from_disk_takes_what_was_signed(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1, keys=KEYS) as node:
            await node.apply(signed(1, "/one"))
            await node.apply(signed(2, "/two"))
        async with running_node(tmp_path, workers=1, keys=KEYS) as node:
            assert node.supervisor.state().version == 2
            assert await node.statuses("/two", 2) == {MATCHED}

    run(test())


@pytest.mark.parametrize("believed", [KEY, OTHER])
def test_a_configuration_outlives_the_key_that_signed_it_first(tmp_path: Path, believed: SigningKey) -> None:
    """The control plane's newer signature may come before its key is believed."""

    async def test() -> None:
        async with running_node(tmp_path, workers=1, keys=KEYS) as node:
            first = signed(1, "/one")
            await node.apply(first)
            for version, key in ((2, OTHER), (2, OTHER), (3, OTHER)):
                again = signed(version, "/one", key)._replace(compressed=b"")
                node.supervisor.applier.keep_signatures(again)
                await node.supervisor.applier.finish()
            node.supervisor.applier.keep_signatures(signed(4, "/another"))
            await node.supervisor.applier.finish()
            kept = json.loads((tmp_path / "dp" / SIGNATURES_FILE).read_text())
            assert {one["digest"] for one in kept} == {first.digest}
        async with running_node(tmp_path, workers=1, keys=TrustedKeys.of([believed.public])) as node:
            assert await node.statuses("/one", 2) == {MATCHED}

    run(test())


def _drop(path: Path) -> None:
    path.unlink()


def _swap(path: Path) -> None:
    """Give the newest configuration the signature of the one before."""
    newest, before = json.loads(path.read_text())
    newest["signatures"] = before["signatures"]
    path.write_text(json.dumps([newest]))


def _forge(path: Path) -> None:
    newest, *_ = json.loads(path.read_text())
    forged = OTHER.sign(CLUSTER, newest["version"], newest["digest"])
    path.write_bytes(msgspec.json.encode([{**newest, "signatures": [forged]}]))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_drop, "its signature is not kept"),
        (_swap, "is not of version 2"),
        (_forge, "the configuration is signed by "),
        (_truncate, "its signature is not kept"),
    ],
)
def test_what_is_not_signed_is_not_served_from_disk(tmp_path: Path, damage: object, reason: str) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1, keys=KEYS) as node:
            await node.apply(signed(1, "/one"))
            await node.apply(signed(2, "/two"))
        assert callable(damage)
        damage(tmp_path / "dp" / SIGNATURES_FILE)
        async with running_node(tmp_path, workers=1, keys=KEYS, wait=False) as node:
            assert node.supervisor.state().digest == ""
            assert f"{CURRENT} cannot be used: " in node.log()
            assert reason in node.log()
            assert isinstance(await node.apply(signed(2, "/two")), Applied)

    run(test())


def _with_checksum(image: bytes) -> bytes:
    """The image with a checksum that is right; its place is in the page of routing/image.py."""
    return image[:24] + hashlib.sha256(image[56:]).digest() + image[56:]


def test_what_lies_about_its_digest_is_not_served_from_disk(tmp_path: Path) -> None:
    """An image of something else, under the digest of what was signed: the digest is taken of the content."""

    async def test() -> None:
        async with running_node(tmp_path / "good", workers=1, keys=KEYS) as node:
            await node.apply(signed(1, "/one"))
        async with running_node(tmp_path / "evil", workers=1) as node:
            await node.apply(routed(1, "/evil"))
        evil, good = routed(1, "/evil").digest.encode(), routed(1, "/one").digest.encode()
        content = (tmp_path / "evil/dp" / CURRENT).read_bytes()
        assert evil in content
        (tmp_path / "good/dp" / CURRENT).write_bytes(_with_checksum(content.replace(evil, good)))
        async with running_node(tmp_path / "good", workers=1, keys=KEYS, wait=False) as node:
            assert node.supervisor.state().digest == ""
            assert "cannot be used" in node.log()

    run(test())


class TestKeysOfSettings:
    def test_keys_as_texts_or_in_a_file(self, tmp_path: Path) -> None:
        texts = [show_public(KEY.public), show_public(OTHER.public)]
        path = tmp_path / "keys"
        path.write_text(f"# those of the cluster\n{texts[0]}\n\n{texts[1]}\n")
        for value in (", ".join(texts), str(path)):
            assert keys_of(value).ids == sorted([KEY.id, OTHER.id])
        assert not keys_of("")

    @pytest.mark.parametrize("value", ["ed25519:short", "/no/such/file"])
    def test_what_is_wrong_is_named(self, value: str) -> None:
        with pytest.raises(SettingsError, match="cluster_signing_keys"):
            keys_of(value)


def keys_of(value: str) -> TrustedKeys:
    return keys_of_settings(
        load_settings("data_plane", environ={}, flags={"cluster_signing_keys": value} if value else {})
    )
