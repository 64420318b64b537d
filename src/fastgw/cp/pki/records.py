"""What the database keeps of the authority, and the statements that read and write it.

Contract. Every function takes a connection inside a transaction. Whatever all control planes have to know
at once (authorities, revocations) moves the revision by `touch`; issuing does not. Who issues, revokes or
changes keys begins with `hold`: so a renewal under way cannot slip past a revocation.

The one complication: a token is used once, yet an answer may be lost. So a used token remembers the key it
was used for, and serves that key again until it expires; it serves no other.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Literal

import msgspec

from fastgw.cp.storage.contract import Connection
from fastgw.errors import CertificateError

KEPT_AFTER_EXPIRY_S: Final = 30 * 86400
"""Rows of certificates and tokens are kept so long after their end, for people to look at."""

Transact = Callable[[], AbstractAsyncContextManager[Connection]]
"""Opens a transaction."""

_encode: Final = msgspec.json.Encoder().encode


class UnknownToken(CertificateError):
    """Nobody made this token, or its row is gone."""


class AuthorityRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An authority; the newest one that is active issues."""

    id: str
    state: Literal["active", "trusted", "retired"]
    """Issues; is trusted until what it issued is gone; neither."""
    certificate: str
    key: str
    """PKCS#8 PEM, encrypted if pki_secret was set."""
    cross: str | None = None
    """Its certificate as the authority before it issued it."""
    created_at: float


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    hash: str
    """SHA-256 of the secret, in hex."""
    expires_at: float
    name: str | None = None
    """What the node that joins is to be called; None leaves it to the node."""
    used_key: str | None = None
    """SHA-256 of the public key that it was used for."""


class CertificateRecord(msgspec.Struct, frozen=True, kw_only=True):
    serial: str
    node_id: str | None
    name: str
    authority: str
    issued_at: float
    not_after: float
    revoked_at: float | None = None


_authority = msgspec.json.Decoder(AuthorityRecord).decode
_token = msgspec.json.Decoder(TokenRecord).decode
_certificate = msgspec.json.Decoder(CertificateRecord).decode


async def read_revision(connection: Connection) -> int:
    """The revision; 0 before there is an authority."""
    found = await connection.fetch("SELECT revision FROM pki_state")
    return int(found[0][0]) if found else 0


async def hold(connection: Connection) -> None:
    """Have others who call this wait until the transaction ends; what is read next is what they left."""
    await connection.execute("UPDATE pki_state SET revision = revision")


async def touch(connection: Connection) -> None:
    """Have every control plane read anew."""
    if await connection.fetch("SELECT revision FROM pki_state"):
        await connection.execute("UPDATE pki_state SET revision = revision + 1")
    else:
        await connection.execute("INSERT INTO pki_state (one, revision) VALUES (1, 1)")


async def read_cluster_id(connection: Connection) -> str:
    ((cluster_id,),) = await connection.fetch("SELECT id FROM cluster")
    return str(cluster_id)


async def list_authorities(connection: Connection) -> list[AuthorityRecord]:
    """All of them, the newest first."""
    rows = await connection.fetch("SELECT doc FROM pki_authorities")
    return sorted((_authority(doc) for (doc,) in rows), key=lambda one: one.created_at, reverse=True)


async def put_authority(connection: Connection, record: AuthorityRecord) -> None:
    await connection.execute("DELETE FROM pki_authorities WHERE id = $1", record.id)
    await connection.execute(
        "INSERT INTO pki_authorities (id, doc) VALUES ($1, $2)", record.id, _encode(record).decode()
    )


async def put_token(connection: Connection, record: TokenRecord) -> None:
    await connection.execute("DELETE FROM pki_tokens WHERE id = $1", record.id)
    await connection.execute(
        "INSERT INTO pki_tokens (id, expires_at, doc) VALUES ($1, $2, $3)",
        record.id,
        record.expires_at,
        _encode(record).decode(),
    )


async def use_token(
    connection: Connection, token_id: str, secret: bytes, public_key: bytes, now_s: float
) -> TokenRecord:
    """Use a token for a key; the row's lock makes two at once one after the other.

    Returns:
        The token as it was before: `used_key` is set if this key asks again.

    Raises:
        UnknownToken: there is no such token.
        CertificateError: it has expired, or was used for another key.
    """
    await connection.execute("UPDATE pki_tokens SET expires_at = expires_at WHERE id = $1", token_id)
    rows = await connection.fetch("SELECT doc FROM pki_tokens WHERE id = $1", token_id)
    record = _token(rows[0][0]) if rows else None
    offered = hashlib.sha256(secret).hexdigest()
    # As long for an id that does not exist as for one that does.
    is_right = hmac.compare_digest(offered, record.hash if record is not None else "0" * 64)
    if record is None or not is_right:
        raise UnknownToken("the token is not one of this cluster, or its time is long over")
    if now_s >= record.expires_at:
        raise CertificateError(
            f"the token has expired {now_s - record.expires_at:.0f} s ago by the control plane's clock: "
            "'fastgw pki token' makes another"
        )
    key_hash = hashlib.sha256(public_key).hexdigest()
    if record.used_key is not None and not hmac.compare_digest(record.used_key, key_hash):
        raise CertificateError("the token was used already: 'fastgw pki token' makes another")
    await put_token(connection, msgspec.structs.replace(record, used_key=key_hash))
    return record


async def put_certificate(connection: Connection, record: CertificateRecord) -> None:
    await connection.execute("DELETE FROM pki_certificates WHERE serial = $1", record.serial)
    await connection.execute(
        "INSERT INTO pki_certificates (serial, node_id, not_after, is_revoked, doc) "
        "VALUES ($1, $2, $3, $4, $5)",
        record.serial,
        record.node_id or "",
        record.not_after,
        int(record.revoked_at is not None),
        _encode(record).decode(),
    )


async def list_certificates(connection: Connection, now_s: float) -> list[CertificateRecord]:
    """Those that are valid by date, revoked or not, by ascending time of issue."""
    rows = await connection.fetch("SELECT doc FROM pki_certificates WHERE not_after > $1", now_s)
    return sorted((_certificate(doc) for (doc,) in rows), key=lambda one: one.issued_at)


async def certificates_of(connection: Connection, node_id: str, now_s: float) -> list[CertificateRecord]:
    """A node's, valid by date, revoked or not."""
    rows = await connection.fetch(
        "SELECT doc FROM pki_certificates WHERE node_id = $1 AND not_after > $2", node_id, now_s
    )
    return [_certificate(doc) for (doc,) in rows]


async def find_certificate(connection: Connection, serial: str) -> CertificateRecord | None:
    rows = await connection.fetch("SELECT doc FROM pki_certificates WHERE serial = $1", serial)
    return _certificate(rows[0][0]) if rows else None


async def list_revoked(connection: Connection, now_s: float) -> frozenset[str]:
    """The serial numbers of revoked certificates that their date does not rule out by itself."""
    rows = await connection.fetch(
        "SELECT serial FROM pki_certificates WHERE is_revoked = 1 AND not_after > $1", now_s
    )
    return frozenset(str(serial) for (serial,) in rows)


async def forget_old(connection: Connection, now_s: float) -> None:
    """Remove rows whose time has been over for long."""
    before_s = now_s - KEPT_AFTER_EXPIRY_S
    await connection.execute("DELETE FROM pki_tokens WHERE expires_at < $1", before_s)
    await connection.execute("DELETE FROM pki_certificates WHERE not_after < $1", before_s)
