"""What `fastgw pki` does: each function is one transaction on the records, beside running control planes.

Contract. Control planes learn of it by the revision, within a second. Nothing here needs one to run.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fastgw.cp.pki import records
from fastgw.cp.pki.records import AuthorityRecord, CertificateRecord, TokenRecord
from fastgw.cp.storage.contract import Connection
from fastgw.errors import CertificateError
from fastgw.tls.authority import Authority, Issued, NodeKey, check_name
from fastgw.wire.enrolment import Token

MOST_TOKEN_S: Final = 7 * 86400


async def make_authority(connection: Connection, secret: str, now: dt.datetime) -> Authority:
    """Make the cluster's first authority.

    Raises:
        CertificateError: there is one.
    """
    for one in await records.list_authorities(connection):
        if one.state != "retired":
            raise CertificateError(
                f"the cluster has an authority already ({one.id}): 'fastgw pki rotate' makes the next one"
            )
    authority = Authority.make(await records.read_cluster_id(connection), now)
    await records.put_authority(connection, _record(authority, secret, now))
    await records.touch(connection)
    return authority


async def load_active(connection: Connection, secret: str) -> tuple[AuthorityRecord, Authority]:
    """The authority that issues.

    Raises:
        CertificateError: there is none, or its key cannot be read.
    """
    for one in await records.list_authorities(connection):
        if one.state == "active":
            return one, Authority.load(one.certificate, one.key, secret)
    raise CertificateError("the cluster has no authority yet: 'fastgw pki init' makes it")


async def make_token(
    connection: Connection, secret: str, *, name: str | None, valid_s: float, now: dt.datetime
) -> Token:
    """Make a token with which one node may join. Raises as `load_active` does."""
    if name is not None:
        check_name(name)
    _, authority = await load_active(connection, secret)
    token = Token.make(authority.pin)
    now_s = now.timestamp()
    await records.forget_old(connection, now_s)
    await records.put_token(
        connection,
        TokenRecord(
            id=token.id,
            hash=hashlib.sha256(token.secret).hexdigest(),
            expires_at=now_s + valid_s,
            name=name,
        ),
    )
    return token


async def issue(
    connection: Connection,
    secret: str,
    *,
    name: str,
    node_id: str | None,
    is_control_plane: bool,
    lifetime: dt.timedelta,
    now: dt.datetime,
) -> tuple[Issued, NodeKey, list[x509.Certificate]]:
    """Issue a certificate for a key made here, for nodes that cannot join by themselves; with its chain."""
    check_name(name)
    if node_id is not None:
        try:
            node_id = str(uuid.UUID(node_id))
        except ValueError:
            raise CertificateError(f"{node_id[:80]!r} is no UUID") from None
    record, authority = await load_active(connection, secret)
    key = NodeKey()
    if is_control_plane:
        issued = authority.issue_control_plane(key.public_key, names=(name,), lifetime=lifetime, now=now)
    else:
        issued = authority.issue_data_plane(
            key.public_key, name=name, node_id=node_id, lifetime=lifetime, now=now
        )
    await records.put_certificate(connection, certificate_record(issued, name, node_id, authority.id, now))
    return issued, key, chain_of(record)


async def rotate(connection: Connection, secret: str, now: dt.datetime) -> tuple[Authority, AuthorityRecord]:
    """Begin to issue from a new authority, vouched for by the one before, which stays trusted.

    Raises:
        CertificateError: a rotation is under way already, or the key cannot be read.
    """
    await records.hold(connection)
    record, current = await load_active(connection, secret)
    for one in await records.list_authorities(connection):
        if one.state == "trusted":
            raise CertificateError(
                f"a rotation is under way: the authority {one.id} is still trusted; end it first with "
                "'fastgw pki rotate --finish'"
            )
    following = Authority.make(await records.read_cluster_id(connection), now)
    cross = current.cross_sign(following, now).public_bytes(Encoding.PEM).decode()
    await records.put_authority(connection, msgspec.structs.replace(record, state="trusted"))
    await records.put_authority(connection, _record(following, secret, now, cross))
    await records.touch(connection)
    return following, record


async def finish_rotation(connection: Connection, now: dt.datetime, *, is_forced: bool) -> AuthorityRecord:
    """Trust the authority before no longer.

    Raises:
        CertificateError: none is left over; or certificates of it are in use, and it is not forced.
    """
    await records.hold(connection)
    left = [one for one in await records.list_authorities(connection) if one.state == "trusted"]
    if not left:
        raise CertificateError("no rotation is under way: 'fastgw pki rotate' begins one")
    using = sorted(
        one.name for one in await _newest_of_each(connection, now.timestamp()) if one.authority == left[0].id
    )
    if using and not is_forced:
        shown = ", ".join(using[:5]) + (f" and {len(using) - 5} more" if len(using) > 5 else "")
        raise CertificateError(
            f"{len(using)} nodes have no certificate of the new authority yet: {shown}; wait for them, "
            "revoke them, or cut them off with --force"
        )
    for one in left:
        # Nobody needs what it could sign any more.
        gone = msgspec.structs.replace(one, state="retired", key="")
        await records.put_authority(connection, gone)
    await records.touch(connection)
    return left[0]


async def revoke(connection: Connection, what: str, now: dt.datetime) -> list[CertificateRecord]:
    """Revoke a certificate by its serial number, or all of a node by its id or name; return them.

    Raises:
        CertificateError: nothing that is valid is called so.
    """
    await records.hold(connection)
    now_s = now.timestamp()
    wanted = what.strip().lower().removeprefix("0x")
    plain = wanted.replace(":", "")
    found = [
        one
        for one in await records.list_certificates(connection, now_s)
        if one.revoked_at is None
        and (one.serial == plain.lstrip("0") or one.node_id == wanted or one.name.lower() == wanted)
    ]
    if not found:
        raise CertificateError(
            f"no valid certificate has the serial number, node id or name {what[:80]!r}: "
            "'fastgw pki list' shows them"
        )
    revoked = [msgspec.structs.replace(one, revoked_at=now_s) for one in found]
    for one in revoked:
        await records.put_certificate(connection, one)
    await records.touch(connection)
    return revoked


def certificate_record(
    issued: Issued, name: str, node_id: str | None, authority: str, now: dt.datetime
) -> CertificateRecord:
    return CertificateRecord(
        serial=issued.serial,
        node_id=node_id,
        name=name,
        authority=authority,
        issued_at=now.timestamp(),
        not_after=issued.not_after.timestamp(),
    )


def chain_of(record: AuthorityRecord) -> list[x509.Certificate]:
    """What links its certificates to the authority before, for those that trust only that."""
    return [] if record.cross is None else [x509.load_pem_x509_certificate(record.cross.encode())]


async def _newest_of_each(connection: Connection, now_s: float) -> list[CertificateRecord]:
    newest: dict[str, CertificateRecord] = {}
    for one in await records.list_certificates(connection, now_s):
        if one.revoked_at is None:
            newest[one.node_id or one.serial] = one
    return list(newest.values())


def _record(authority: Authority, secret: str, now: dt.datetime, cross: str | None = None) -> AuthorityRecord:
    return AuthorityRecord(
        id=authority.id,
        state="active",
        certificate=authority.certificate_pem,
        key=authority.key_pem(secret),
        cross=cross,
        created_at=now.timestamp(),
    )
