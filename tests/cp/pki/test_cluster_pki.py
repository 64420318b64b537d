"""The built-in authority on real sockets: joining, renewing, rotating, revoking, and what is declined."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import stat
import uuid
from pathlib import Path

import pytest
from cryptography import x509

from fastgw.cp.pki import management, records
from fastgw.dp import enrolment
from fastgw.dp.membership import IDENTITY_FILE
from fastgw.errors import CertificateError, RemoteLinkError
from fastgw.tls.authority import NodeKey, node_id_of, serial_of
from fastgw.tls.cluster import make_stranger_context
from fastgw.wire import enrolment as e
from fastgw.wire.messages import LINK_PATH
from tests.cp.cluster_nodes import Log, Stranger, eventually, node_id_that_prefers, offering_of, run
from tests.cp.pki.cluster import Clock, Cluster, Member, cluster
from tests.waiting import free_port

NODE = "3f8e2b50-0000-4000-8000-000000000001"


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def join_with(token: e.Token) -> bytes:
    return e.encode(
        e.Join(
            token_id=token.id,
            token_secret=token.secret,
            request=NodeKey().request(),
            node_id=str(uuid.uuid4()),
            name="dp-2",
        )
    )


def serial_in_use(member: Member) -> str:
    return serial_of(x509.load_der_x509_certificate(member.membership.current().pair.der))


async def join(
    cluster_: Cluster, token: e.Token, node_id: str = NODE, name: str = "dp-1"
) -> enrolment.Identity:
    return await enrolment.join(cluster_.address, token, node_id=node_id, name=name)


def test_a_data_plane_joins_with_a_token_and_is_served(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            one.hub.publish(offering_of(1, ["a"]))
            member = one.member("dp-1", await one.token())
            async with member.running():
                await eventually(lambda: member.node.state.version == 1, "version 1")
                path = member.settings.prefix / IDENTITY_FILE
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
                certificate = x509.load_der_x509_certificate(member.membership.current().pair.der)
                assert node_id_of(certificate) == member.id
                shown = next(row for row in await one.hub.data_planes() if row["id"] == member.id)
                until = int(certificate.not_valid_after_utc.timestamp())
                assert shown["cert_details"] == {"expiry_timestamp": until}
                line = await log.shows("issued certificate")
                assert f"(dp-1, node {member.id})" in line
            # The identity is enough for the next start.
            again = one.member("dp-1", None, member.id)
            async with again.running():
                await eventually(lambda: again.node.sync.status.is_connected, "the link")

    run(scenario())


def test_a_token_is_good_for_one_key_only(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            token = await one.token()
            await join(one, token)
            with pytest.raises(RemoteLinkError, match="the token was used already"):
                await join(one, token, str(uuid.uuid4()))
            assert str(token) not in log.text()
            async with one.storage.read_records() as connection:
                rows = await connection.fetch("SELECT doc FROM pki_tokens")
            assert token.secret.hex() not in rows[0][0]

    run(scenario())


def test_an_answer_that_was_lost_is_given_again_to_the_same_key(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            token, key = await one.token(), NodeKey()
            question = e.Join(
                token_id=token.id, token_secret=token.secret, request=key.request(), node_id=NODE, name="dp-1"
            )
            for _ in range(2):
                answer = e.decode_from_office(await one.office.answer(e.encode(question), None, "test"))
                assert isinstance(answer, e.Issued)

    run(scenario())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda token: token._replace(secret=bytes(20)), "the token is not one of this cluster"),
        (lambda token: token._replace(id="none"), "the token is not one of this cluster"),
        (lambda token: token._replace(pin=bytes(32)), "its authority is another one"),
    ],
)
def test_a_wrong_token_is_declined(tmp_path: Path, log: Log, change: object, reason: str) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            token = await one.token()
            assert callable(change)
            with pytest.raises((RemoteLinkError, CertificateError), match=reason):
                await join(one, change(token))
            await join(one, token)

    run(scenario())


def test_an_expired_token_is_declined_and_says_by_whose_clock(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with cluster(tmp_path, clock=clock) as one:
            token = await one.token(valid_s=5)
            clock.ahead = dt.timedelta(seconds=7)
            with pytest.raises(RemoteLinkError, match=r"has expired [12] s ago by the control plane's clock"):
                await join(one, token)

    run(scenario())


def test_a_token_does_not_replace_another_node_unless_it_names_it(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            await join(one, await one.token())
            with pytest.raises(RemoteLinkError, match="has a valid certificate"):
                await join(one, await one.token())
            await join(one, await one.token(name="dp-1"))

    run(scenario())


def test_a_guesser_is_slowed_down(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            token = await one.token()
            question = e.Join(
                token_id=token.id, token_secret=bytes(20), request=NodeKey().request(), node_id=NODE, name="x"
            )
            reasons = []
            for _ in range(12):
                answer = e.decode_from_office(
                    await one.office.answer(e.encode(question), None, "192.0.2.9:1")
                )
                assert isinstance(answer, e.Declined)
                reasons.append(answer.reason)
            assert "too many wrong tokens" in reasons[-1]
            good = e.Join(
                token_id=token.id,
                token_secret=token.secret,
                request=NodeKey().request(),
                node_id=NODE,
                name="x",
            )
            held_up = e.decode_from_office(await one.office.answer(e.encode(good), None, "192.0.2.9:2"))
            assert isinstance(held_up, e.Declined), "the right one must not tell a guesser more"
            other = e.decode_from_office(await one.office.answer(e.encode(good), None, "192.0.2.8:1"))
            assert isinstance(other, e.Issued), "others are not held up"

    run(scenario())


def test_a_node_that_shows_its_used_token_again_and_again_holds_up_nobody(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            used = await one.token()
            await join(one, used)
            for _ in range(12):
                answer = e.decode_from_office(await one.office.answer(join_with(used), None, "192.0.2.9:1"))
                assert isinstance(answer, e.Declined)
                assert "the token was used already" in answer.reason
            behind_the_same_address = join_with(await one.token())
            answer = e.decode_from_office(
                await one.office.answer(behind_the_same_address, None, "192.0.2.9:2")
            )
            assert isinstance(answer, e.Issued)

    run(scenario())


def test_without_a_certificate_there_is_no_link(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            for path, words in ((LINK_PATH, "nodes may only join"), ("/v1/outlet", "nodes may only join")):
                stranger = await Stranger.connect(one.address, make_stranger_context(()))
                response = await stranger.upgrade(path)
                assert response.status_code == 403
                assert words in response.headers["X-Fastgw-Reason"]
                stranger.close()

    run(scenario())


def test_without_a_certificate_nobody_sends_much(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            stranger = await Stranger.connect(one.address, make_stranger_context(()))
            assert (await stranger.upgrade(e.ENROL_PATH)).status_code == 101
            stranger.websocket.send_binary(bytes(900_000))
            stranger.flush()
            await log.shows("more than 81920 bytes without a certificate")
            stranger.close()

    run(scenario())


@pytest.mark.parametrize(
    "question",
    [b"junk", e.encode(e.Renew(request=NodeKey().request())), e.encode(e.Authorities(certificates=[]))],
)
def test_other_questions_of_strangers_are_declined(tmp_path: Path, log: Log, question: bytes) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            answer = e.decode_from_office(await one.office.answer(question, None, "test"))
            assert isinstance(answer, e.Declined)
            await log.shows("declined a certificate to test")

    run(scenario())


def test_a_renewal_drops_no_link_and_uses_a_new_key(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            member = one.member("dp-1", await one.token())
            async with member.running():
                await eventually(lambda: len(one.hub) == 1, "the link")
                before = member.membership.current()
                await member.membership.renew()
                after = member.membership.current()
                assert after.pair.key_pem != before.pair.key_pem
                shown = next(row for row in await one.hub.data_planes() if row["id"] == member.id)
                assert shown["cert_details"] == {"expiry_timestamp": int(after.pair.not_after.timestamp())}
                one.hub.publish(offering_of(1, ["a"]))
                await eventually(lambda: member.node.state.version == 1, "version 1 on the same link")
                assert member.node.sync.status.last_error is None
                next(iter(one.server.sessions)).close("test")
                await eventually(lambda: len(one.hub) == 0, "the cut")
                await eventually(lambda: len(one.hub) == 1, "a link with the new certificate")

    run(scenario())


def test_a_damaged_identity_that_is_read_again_changes_nothing(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            member = one.member("dp-1", await one.token())
            await member.membership.ready()
            path = member.settings.prefix / IDENTITY_FILE
            path.write_text(json.dumps({**json.loads(path.read_text()), "certificate": "damaged"}))
            before = serial_in_use(member)
            member.membership.read_again()
            await log.shows("the identity stays as it was")
            assert serial_in_use(member) == before

    run(scenario())


def test_certificates_are_renewed_by_themselves_before_they_end(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, pki_certificate_lifetime="3s") as one:
            member = one.member("dp-1", await one.token())
            async with member.running():
                first = serial_in_use(member)
                await eventually(lambda: serial_in_use(member) != first, "a renewed certificate")
                assert member.node.sync.status.last_error is None
                path = member.settings.prefix / IDENTITY_FILE
                stored = x509.load_pem_x509_certificate(json.loads(path.read_text())["certificate"].encode())
                assert serial_of(stored) == serial_in_use(member)

    run(scenario())


def test_a_rotation_reaches_all_and_then_ends(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            before = one.office.trust
            early = await one.token()
            member = one.member("dp-1", await one.token())
            async with member.running():
                await eventually(lambda: len(one.hub) == 1, "the link")
                first = serial_in_use(member)
                await one.manage(lambda connection: management.rotate(connection, "", now()))
                assert one.office.trust != before
                # One who trusts only the authority before takes the control plane by the cross certificate.
                await join(one, early, str(uuid.uuid4()), "dp-2")
                with pytest.raises(CertificateError, match="a rotation is under way"):
                    await one.manage(lambda connection: management.rotate(connection, "", now()))
                await eventually(lambda: serial_in_use(member) != first, "a certificate of the new authority")
                assert len(member.membership.current().authorities) == 2
                assert member.node.sync.status.last_error is None
                await one.manage(
                    lambda connection: management.finish_rotation(connection, now(), is_forced=False)
                )
                second = serial_in_use(member)
                await eventually(lambda: serial_in_use(member) != second, "told of the end")
                assert len(member.membership.current().authorities) == 1
                assert member.node.sync.status.last_error is None

    run(scenario())


def test_one_that_renewed_at_a_control_plane_that_was_late_asks_again(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            member = one.member("dp-1", await one.token())
            async with member.running():
                for _ in range(2):
                    before = serial_in_use(member)
                    # As a control plane does that has looked already.
                    member.membership.told("the state to come")
                    await eventually(lambda: serial_in_use(member) != before, "a renewal")  # noqa: B023

    run(scenario())


def test_a_rotation_does_not_end_over_nodes_that_have_not_moved(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            left_behind = await join(one, await one.token())
            await one.manage(lambda connection: management.rotate(connection, "", now()))
            with pytest.raises(CertificateError, match=r"1 nodes have no certificate of the new .*: dp-1"):
                await one.manage(
                    lambda connection: management.finish_rotation(connection, now(), is_forced=False)
                )
            await one.manage(lambda connection: management.finish_rotation(connection, now(), is_forced=True))
            with pytest.raises(RemoteLinkError):
                await enrolment.renew(one.address, left_behind.link_tls())
            async with one.storage.read_records() as connection:
                authorities = await records.list_authorities(connection)
            assert [(one.state, bool(one.key)) for one in authorities] == [
                ("active", True),
                ("retired", False),
            ]

    run(scenario())


def test_a_revoked_node_is_cut_and_stays_out(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            member, other = one.member("dp-1", await one.token()), one.member("dp-2", await one.token())
            async with member.running(), other.running():
                await eventually(lambda: len(one.hub) == 2, "both links")
                identity = member.membership.current()
                revoked = await one.manage(
                    lambda connection: management.revoke(connection, member.id.upper(), now())
                )
                assert [found.name for found in revoked] == ["dp-1"]
                await eventually(lambda: len(one.hub) == 1, "the cut")
                serial = serial_in_use(member)
                await log.shows(f"its certificate {serial} is revoked")
                await log.shows(f"(dp-1, {serial}) is revoked")
                with pytest.raises(RemoteLinkError, match="answered 403: .* is revoked"):
                    await enrolment.renew(one.address, identity)
                with pytest.raises(RemoteLinkError, match="is revoked: a node that is to come back"):
                    await join(one, await one.token(), member.id)
                assert other.node.sync.status.last_error is None

    run(scenario())


def test_a_renewal_over_an_open_handshake_is_refused_by_the_record(tmp_path: Path, log: Log) -> None:
    """Another control plane of the cluster may have revoked it a moment ago."""

    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            identity = await join(one, await one.token())
            certificate = x509.load_pem_x509_certificate(identity.certificate.encode())
            async with one.storage.beside() as connection:
                await management.revoke(connection, serial_of(certificate), now())
            question = e.encode(e.Renew(request=NodeKey().request()))
            answer = e.decode_from_office(await one.office.answer(question, certificate, "test"))
            assert isinstance(answer, e.Declined)
            assert "is revoked" in answer.reason

    run(scenario())


def test_a_certificate_proves_the_node_id(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            member = one.member("dp-1", await one.token())
            await member.membership.ready()
            posing = one.member("dp-1", None, str(uuid.uuid4()))
            async with posing.running():
                line = await log.shows("its certificate is that of node")
                assert f"that of node {member.id}, and it says that it is {posing.id}" in line
                assert len(one.hub) == 0

    run(scenario())


def test_a_data_planes_certificate_does_not_serve_as_a_control_planes(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path) as one:
            identity = await join(one, await one.token())
            context = identity.link_tls().server_context

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(RemoteLinkError, match="control planes serverAuth"):
                await enrolment.renew(f"127.0.0.1:{port}", identity.link_tls())
            server.close()

    run(scenario())


def test_the_authoritys_key_is_encrypted_where_a_secret_is_set(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, pki_secret="correct horse") as one:
            async with one.storage.read_records() as connection:
                ((document,),) = await connection.fetch("SELECT doc FROM pki_authorities")
                assert "BEGIN ENCRYPTED PRIVATE KEY" in document
                for secret, words in (("", "is encrypted: pki_secret must be"), ("wrong", "is another one")):
                    with pytest.raises(CertificateError, match=words):
                        await management.load_active(connection, secret)

    run(scenario())


def test_of_several_control_planes_the_first_that_answers_will_do(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path / "cp") as port, cluster(tmp_path / "strange") as strange:
            addresses = (f"127.0.0.1:{free_port()}", strange.address, port.address)
            named = {"cluster_control_plane": ", ".join(addresses)}
            member = port.member("dp-1", await port.token(), node_id_that_prefers(addresses), **named)
            await member.membership.ready()
            serial = serial_in_use(member)
            await member.membership.renew()
            assert serial_in_use(member) != serial
            named = {"cluster_control_plane": ", ".join(addresses[:2])}
            late = port.member("dp-2", await port.token(), **named)
            joining = asyncio.create_task(late.membership.ready())
            line = await log.shows("has not joined the cluster")
            assert f"cannot connect to {addresses[0]}: " in line
            assert f"{addresses[1]} is no control plane of the cluster that the token is for" in line
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)

    run(scenario())
