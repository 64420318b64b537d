"""The authority's records on both databases: used beside an open storage, and by two control planes at once."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import msgspec
import pytest
from cryptography import x509

from fastgw.cp.pki import management, records, signing
from fastgw.cp.pki.office import Office
from fastgw.cp.storage.base import SqlStorage
from fastgw.errors import CertificateError, NeedsBootstrap
from fastgw.settings import load_settings
from fastgw.tls.authority import NodeKey, serial_of
from fastgw.wire import enrolment as e
from tests.cp.storage.conftest import Database

pytestmark = pytest.mark.anyio

NODE = "3f8e2b50-0000-4000-8000-000000000001"


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


async def office_of(storage: SqlStorage) -> Office:
    settings = load_settings("control_plane", environ={}, flags={"cluster_mtls": "pki"})
    office = Office(settings, read=storage.read_records, write=storage.write_records)
    await office.open()
    return office


async def manage(storage: SqlStorage, work: Any, *arguments: Any, **options: Any) -> Any:
    async with storage.beside() as connection:
        return await work(connection, *arguments, **options)


def join_with(token: e.Token, key: NodeKey | None = None) -> bytes:
    request = (key or NodeKey()).request()
    return e.encode(
        e.Join(token_id=token.id, token_secret=token.secret, request=request, node_id=NODE, name="dp-1")
    )


async def test_an_empty_database_is_refused(empty: Database) -> None:
    with pytest.raises(NeedsBootstrap):
        await manage(empty.make(), management.make_authority, "", now())


async def test_joined_listed_revoked_rotated(database: Database) -> None:
    storage = await database.open()
    with pytest.raises(CertificateError, match="no authority yet"):
        await manage(storage, management.make_token, "", name=None, valid_s=60, now=now())
    await manage(storage, management.make_authority, "", now())
    with pytest.raises(CertificateError, match="has an authority already"):
        await manage(storage, management.make_authority, "", now())
    office = await office_of(storage)
    token = await manage(storage, management.make_token, "", name=None, valid_s=60, now=now())
    answer = e.decode_from_office(await office.answer(join_with(token), None, "test"))
    assert isinstance(answer, e.Issued)
    async with storage.read_records() as connection:
        (listed,) = await records.list_certificates(connection, now().timestamp())
    assert (listed.node_id, listed.name, listed.revoked_at) == (NODE, "dp-1", None)

    await manage(storage, management.rotate, "", now())
    await office.look()
    assert len(office.current().authorities) == 2
    with pytest.raises(CertificateError, match="have no certificate of the new authority"):
        await manage(storage, management.finish_rotation, now(), is_forced=False)
    (revoked,) = await manage(storage, management.revoke, "dp-1", now())
    await manage(storage, management.finish_rotation, now(), is_forced=False)
    await office.look()
    assert office.current().revoked == frozenset([revoked.serial])
    assert len(office.current().authorities) == 1
    with pytest.raises(CertificateError, match="no valid certificate"):
        await manage(storage, management.revoke, "dp-1", now())

    later = now() + dt.timedelta(days=100)
    await manage(storage, records.forget_old, later.timestamp())
    async with storage.read_records() as connection:
        assert await records.list_certificates(connection, 0.0) == []


async def test_a_token_shown_twice_at_once_is_used_once(database: Database) -> None:
    storage = await database.open()
    await manage(storage, management.make_authority, "", now())
    offices = [await office_of(storage) for _ in range(2)]
    token = await manage(storage, management.make_token, "", name=None, valid_s=60, now=now())
    answers = await asyncio.gather(*(office.answer(join_with(token), None, "test") for office in offices))
    kinds = sorted(type(e.decode_from_office(answer)).__name__ for answer in answers)
    assert kinds == ["Declined", "Issued"]


async def test_what_one_control_plane_revokes_the_other_refuses(database: Database) -> None:
    storage = await database.open()
    await manage(storage, management.make_authority, "", now())
    one, other = await office_of(storage), await office_of(storage)
    token = await manage(storage, management.make_token, "", name=None, valid_s=60, now=now())
    answer = e.decode_from_office(await one.answer(join_with(token), None, "test"))
    assert isinstance(answer, e.Issued)
    await manage(storage, management.revoke, NODE, now())
    certificate = x509.load_der_x509_certificate(answer.certificate)
    renewal = e.encode(e.Renew(request=NodeKey().request()))
    declined = e.decode_from_office(await other.answer(renewal, certificate, "test"))
    assert isinstance(declined, e.Declined)
    for office in (one, other):
        await office.look()
        assert office.current().revoked


async def issued_by(office: Office, storage: SqlStorage) -> x509.Certificate:
    token = await manage(storage, management.make_token, "", name=None, valid_s=60, now=now())
    answer = e.decode_from_office(await office.answer(join_with(token), None, "test"))
    assert isinstance(answer, e.Issued)
    return x509.load_der_x509_certificate(answer.certificate)


async def test_no_renewal_slips_past_a_revocation_under_way(database: Database) -> None:
    storage = await database.open()
    await manage(storage, management.make_authority, "", now())
    office = await office_of(storage)
    certificate = await issued_by(office, storage)
    renewal = e.encode(e.Renew(request=NodeKey().request()))
    async with storage.beside() as connection:
        await management.revoke(connection, NODE, now())
        renewing = asyncio.create_task(office.answer(renewal, certificate, "test"))
        await asyncio.wait({renewing}, timeout=0.3)
    assert isinstance(e.decode_from_office(await renewing), e.Declined)


async def test_a_revocation_finds_what_a_renewal_under_way_issues(database: Database) -> None:
    storage = await database.open()
    await manage(storage, management.make_authority, "", now())
    certificate = await issued_by(await office_of(storage), storage)
    async with storage.write_records() as connection:
        await records.hold(connection)
        (first,) = await records.list_certificates(connection, now().timestamp())
        await records.put_certificate(connection, msgspec.structs.replace(first, serial="51"))
        revoking = asyncio.create_task(manage(storage, management.revoke, NODE, now()))
        await asyncio.wait({revoking}, timeout=0.3)
    assert {one.serial for one in await revoking} == {serial_of(certificate), "51"}


async def test_signing_keys_are_followed_and_encrypted(database: Database) -> None:
    storage = await database.open()
    signer = signing.Signer(storage.read_records, "a secret")
    await signer.open()
    changes: list[int] = []
    signer.on_change = lambda: changes.append(1)
    assert signer.sign(1, "0" * 64) == ()
    first = await manage(storage, signing.rotate_key, "a secret", now())
    assert "ENCRYPTED" in first.key
    await signer.look()
    assert [one.key_id for one in signer.sign(1, "0" * 64)] == [first.id]
    second = await manage(storage, signing.rotate_key, "a secret", now())
    with pytest.raises(CertificateError, match="a rotation is under way"):
        await manage(storage, signing.rotate_key, "a secret", now())
    await signer.look()
    assert {one.key_id for one in signer.sign(1, "0" * 64)} == {first.id, second.id}
    await manage(storage, signing.finish_key_rotation)
    await signer.look()
    await signer.look()
    assert [one.key_id for one in signer.sign(1, "0" * 64)] == [second.id]
    assert len(changes) == 3
    with pytest.raises(CertificateError, match="no rotation is under way"):
        await manage(storage, signing.finish_key_rotation)
    with pytest.raises(CertificateError, match="pki_secret is another one"):
        await signing.Signer(storage.read_records, "another").open()
