"""The keys that sign configurations: kept beside the authority, and changed with an overlap.

    fastgw pki signing rotate            a new key, which the one before endorses; both sign
    fastgw pki signing rotate --finish   the one before signs no longer

Contract. A cluster signs as soon as it has a key; `pki init` makes one, and so does the first `rotate`.
Control planes read the keys anew when the revision moves. Private keys are PKCS#8, encrypted with pki_secret.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fastgw.cp.pki import records
from fastgw.cp.pki.records import Transact
from fastgw.cp.storage.contract import Connection
from fastgw.errors import CertificateError, FastgwError
from fastgw.obs.logs import get_logger
from fastgw.tls.authority import load_private_pem, private_pem
from fastgw.wire.signature import Signature, SignedKey, SigningKey

log = get_logger("pki")

POLL_S: Final = 1.0
_encode: Final = msgspec.json.Encoder().encode


class SigningRecord(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    state: Literal["active", "retired"]
    key: str
    """PEM; empty once it is retired."""
    signed: SignedKey
    created_at: float


_decode = msgspec.json.Decoder(SigningRecord).decode


async def list_keys(connection: Connection) -> list[SigningRecord]:
    """All keys, the oldest first."""
    rows = await connection.fetch("SELECT doc FROM pki_signing_keys")
    return sorted((_decode(doc) for (doc,) in rows), key=lambda one: one.created_at)


async def rotate_key(connection: Connection, secret: str, now: dt.datetime) -> SigningRecord:
    """Make a key; one that there is endorses it.

    Raises:
        CertificateError: a rotation is under way already, or a key cannot be read.
    """
    await records.hold(connection)
    active = [one for one in await list_keys(connection) if one.state == "active"]
    if len(active) > 1:
        raise CertificateError(
            f"a rotation is under way: {active[0].id} still signs; end it first with "
            "'fastgw pki signing rotate --finish'"
        )
    key = Ed25519PrivateKey.generate()
    made = SigningKey(key)
    cluster_id = await records.read_cluster_id(connection)
    endorsement = _load(active[0], secret).endorse(cluster_id, made.public) if active else None
    record = SigningRecord(
        id=made.id,
        state="active",
        key=private_pem(key, secret),
        signed=SignedKey(made.public, endorsement),
        created_at=now.timestamp(),
    )
    await _put(connection, record)
    await records.touch(connection)
    return record


async def finish_key_rotation(connection: Connection) -> SigningRecord:
    """Have the older key sign no longer.

    Raises:
        CertificateError: there is but one.
    """
    await records.hold(connection)
    active = [one for one in await list_keys(connection) if one.state == "active"]
    if len(active) < 2:
        raise CertificateError("no rotation is under way: 'fastgw pki signing rotate' begins one")
    retired = msgspec.structs.replace(active[0], state="retired", key="")
    await _put(connection, retired)
    await records.touch(connection)
    return retired


class Signer:
    """Signs with the keys that there are, and follows them.

    Args:
        read: opens a view of the database.
    """

    def __init__(self, read: Transact, secret: str) -> None:
        self._read = read
        self._secret = secret
        self._revision = -1
        self._cluster_id = ""
        self._keys: tuple[SigningKey, ...] = ()
        self.on_change: Callable[[], None] = lambda: None
        """Called when other keys sign than before."""

    async def open(self) -> None:
        """Read the keys. Raises CertificateError or StorageError."""
        await self.look()

    def sign(self, version: int, digest: str) -> tuple[Signature, ...]:
        """Sign a configuration with every key that there is; nothing where there is none."""
        return tuple(key.sign(self._cluster_id, version, digest) for key in self._keys)

    async def run(self) -> None:
        """Follow the keys, until cancelled."""
        is_away = False
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.look()
                is_away = False
            except FastgwError as exc:
                if not is_away:
                    log.error("the signing keys cannot be read, and what was read stays: %s", exc)
                is_away = True

    async def look(self) -> None:
        """Read the keys anew if something has changed."""
        async with self._read() as connection:
            revision = await records.read_revision(connection)
            if revision == self._revision:
                return
            cluster_id = await records.read_cluster_id(connection)
            found = [one for one in await list_keys(connection) if one.state == "active"]
            keys = tuple(_load(one, self._secret) for one in found)
        before, self._keys = self._keys, keys
        self._cluster_id, self._revision = cluster_id, revision
        if [one.id for one in before] != [one.id for one in keys]:
            log.notice("configurations are signed by %s", ", ".join(one.id for one in keys) or "nobody")
            self.on_change()


def _load(record: SigningRecord, secret: str) -> SigningKey:
    key = load_private_pem(record.key, secret, f"the signing key {record.id}")
    if not isinstance(key, Ed25519PrivateKey):
        raise CertificateError(f"the signing key {record.id} is not an Ed25519 key")
    return SigningKey(key)


async def _put(connection: Connection, record: SigningRecord) -> None:
    await connection.execute("DELETE FROM pki_signing_keys WHERE id = $1", record.id)
    await connection.execute(
        "INSERT INTO pki_signing_keys (id, doc) VALUES ($1, $2)", record.id, _encode(record).decode()
    )
