"""The built-in authority at work in one control plane.

    database ──revision, every second──> Office ──current()──> what the cluster port presents and takes
    cluster port ──a node's question──> Office.answer ──> a certificate, or the reason why not

Contract. `current` never waits: it is what was read last, so a database that is away changes nothing for
those who have certificates, and only delays joining, renewing and revoking. The control plane's own
certificate is issued here, for a key that exists in this process only, and again long before it ends. A
question is answered or declined within `ANSWER_TIMEOUT_S`, at most so many a second; why it is declined
stands in the log and, as far as the asker may know it, in the answer.

The one complication: who has no certificate must reach this port to get one. So the handshake does not demand
one (`takes_strangers`), and the cluster port lets those without ask here and do nothing else.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from fastgw.cp.pki import records
from fastgw.cp.pki.management import certificate_record, chain_of, load_active
from fastgw.cp.pki.records import Transact, UnknownToken
from fastgw.cp.pki.signing import list_keys
from fastgw.cp.storage.contract import Connection
from fastgw.errors import CertificateError, FastgwError, RemoteLinkError, StorageError
from fastgw.obs.logs import get_logger
from fastgw.settings import Settings
from fastgw.tls.authority import (
    CONTROL_PLANE_NAME,
    Authority,
    NodeKey,
    check_name,
    node_id_of,
    public_key_der,
    read_request,
    serial_of,
)
from fastgw.tls.cluster import LinkTls, Mode, common_name_of
from fastgw.wire import enrolment as e
from fastgw.wire.signature import SignedKey

log = get_logger("pki")

POLL_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 5.0
OWN_LIFETIME: Final = dt.timedelta(days=7)
_OWN_RENEWAL: Final = dt.timedelta(days=3)
"""Our own certificate is made anew when less than this is left of it."""

_GUESSES_LIMIT: Final = 10
_GUESSES_WAIT_S: Final = 60.0
_GUESSERS_LIMIT: Final = 1024
"""So many hosts are remembered; the one that has been quiet for longest is forgotten."""


class _State(NamedTuple):
    """One revision of the records, read whole."""

    revision: int
    cluster_id: str
    authority: Authority
    chain: tuple[x509.Certificate, ...]
    trusted: tuple[x509.Certificate, ...]
    revoked: frozenset[str]
    signing_keys: tuple[SignedKey, ...]

    @property
    def trust(self) -> str:
        """Names what data planes have to know of it, apart from who is revoked."""
        digest = hashes.Hash(hashes.SHA256())
        for one in self.trusted:
            digest.update(one.fingerprint(hashes.SHA256()))
        for key in self.signing_keys:
            digest.update(key.public)
        return digest.finalize().hex()[:16]


class _Guesses:
    """Wrong tokens by the host that showed them; too many, and it has to wait.

    A secret of 160 bits cannot be guessed; this keeps the database and the log from those who try. A token
    that was used or has expired is no guess: a node that shows its own again and again holds up nobody.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: dict[str, tuple[int, float]] = {}

    def check(self, host: str) -> None:
        """Raise CertificateError while *host* has to wait."""
        count, since_s = self._noted.get(host, (0, 0.0))
        if count >= _GUESSES_LIMIT:
            left_s = since_s + _GUESSES_WAIT_S - self._clock()
            if left_s > 0:
                raise CertificateError(f"too many wrong tokens from {host}: wait {left_s:.0f} s")
            del self._noted[host]

    def note(self, host: str) -> None:
        count, since_s = self._noted.pop(host, (0, 0.0))
        if len(self._noted) >= _GUESSERS_LIMIT:
            del self._noted[next(iter(self._noted))]
        now_s = self._clock()
        is_over = now_s - since_s > _GUESSES_WAIT_S
        self._noted[host] = (1 if is_over else count + 1, now_s)


class Office:
    """The authority; also the `Credentials` of the cluster port.

    Args:
        read: opens a view of the database; *write*, a transaction.
        wall_clock: aware UTC time; certificates and tokens live by it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        read: Transact,
        write: Transact,
        wall_clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._settings = settings
        self._read = read
        self._write = write
        self._now = wall_clock
        self._guesses = _Guesses()
        self._state: _State | None = None
        self._tls: LinkTls | None = None
        self._own_begins = self._now()
        self.on_change: Callable[[], None] = lambda: None
        """Called when who is trusted or revoked has changed."""
        self.on_issued: Callable[[str, int], None] = lambda _node_id, _expiry_s: None
        """Called with a node's id and the end of its new certificate, in Unix seconds."""

    async def open(self) -> None:
        """Read the records and make our own certificate.

        Raises:
            CertificateError: there is no authority yet, or its key cannot be read.
            StorageError: the database does not answer.
        """
        async with self._read() as connection:
            self._state = await self._load(connection)
        self._tls = self._make_tls(self._state)

    def current(self) -> LinkTls:
        assert self._tls is not None, "not opened"
        return self._tls

    @property
    def trust(self) -> str:
        """Names the state of what data planes trust; a data plane that knows another one asks anew."""
        assert self._state is not None, "not opened"
        return self._state.trust

    async def run(self) -> None:
        """Follow the records, and renew our own certificate, until cancelled."""
        is_away = False
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.look()
                is_away = False
            except FastgwError as exc:
                if not is_away:
                    log.error(
                        "the records of the authority are not followed, and what was read stays: %s", exc
                    )
                is_away = True

    async def look(self) -> None:
        """Read the records anew if they have changed."""
        assert self._state is not None, "not opened"
        async with self._read() as connection:
            if await records.read_revision(connection) != self._state.revision:
                before, after = self._state, await self._load(connection)
                self._tls = self._make_tls(after)
                self._state = after
                self._tell(before, after)
                self.on_change()
                return
        now = self._now()
        # The clock may have been ahead when it was made, and then be set right.
        if self.current().pair.not_after - now < _OWN_RENEWAL or now < self._own_begins:
            self._tls = self._make_tls(self._state)

    async def answer(self, question: bytes, certificate: x509.Certificate | None, peer: str) -> bytes:
        """Answer what a node asks, or decline.

        Args:
            certificate: the node's own, verified; None for one that has none yet.
            peer: its address, for the log.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return e.encode(await self._answer(e.decode_to_office(question), certificate, peer))
        except (CertificateError, RemoteLinkError) as exc:
            reason = str(exc)
        except (StorageError, TimeoutError) as exc:
            log.error("the database keeps %s from its certificate: %s", peer, exc)
            return e.encode(e.Declined(reason="the control plane's database does not answer; try again"))
        log.warning("declined a certificate to %s: %s", peer, reason)
        return e.encode(e.Declined(reason=reason[:1000]))

    async def _answer(
        self, question: e.ToOffice, certificate: x509.Certificate | None, peer: str
    ) -> e.FromOffice:
        state = self._state
        assert state is not None, "not opened"
        match question:
            case e.AskAuthorities():
                return e.Authorities(certificates=_ders(state.trusted))
            case e.Join():
                return await self._join(state, question, peer)
            case e.Renew() if certificate is not None:
                return await self._renew(state, question, certificate, peer)
            case _:
                raise CertificateError("a certificate is renewed over the one that is to be renewed")

    async def _join(self, state: _State, question: e.Join, peer: str) -> e.Issued:
        host = peer.rpartition(":")[0]
        self._guesses.check(host)
        key = read_request(question.request)
        now = self._now()
        async with self._write() as connection:
            await records.hold(connection)
            try:
                token = await records.use_token(
                    connection,
                    question.token_id,
                    question.token_secret,
                    public_key_der(key),
                    now.timestamp(),
                )
            except UnknownToken:
                self._guesses.note(host)
                raise
            name = check_name(token.name or question.name)
            others = await records.certificates_of(connection, question.node_id, now.timestamp())
            if any(one.revoked_at is not None for one in others):
                raise CertificateError(
                    f"the node id {question.node_id} is revoked: a node that is to come back needs a new id"
                )
            # A token lets a node in, but not in the place of another, unless it was made for that one.
            taken = {one.name for one in others} - {token.name}
            if taken and token.used_key is None:
                raise CertificateError(
                    f"the node id {question.node_id} has a valid certificate: a token of 'fastgw pki token "
                    f"--name {min(taken)}' may replace it"
                )
            return await self._issue(connection, state, key, name, question.node_id, now, peer)

    async def _renew(
        self, state: _State, question: e.Renew, certificate: x509.Certificate, peer: str
    ) -> e.Issued:
        key = read_request(question.request)
        node_id = node_id_of(certificate)
        if node_id is None:
            raise CertificateError("this certificate names no node: 'fastgw pki issue' makes another one")
        name = check_name(common_name_of(certificate))
        now = self._now()
        async with self._write() as connection:
            await records.hold(connection)
            # What every control plane will know within a second must hold for this answer already.
            found = await records.find_certificate(connection, serial_of(certificate))
            if found is not None and found.revoked_at is not None:
                raise CertificateError(f"the certificate of {name} is revoked")
            return await self._issue(connection, state, key, name, node_id, now, peer)

    async def _issue(
        self,
        connection: Connection,
        state: _State,
        key: EllipticCurvePublicKey,
        name: str,
        node_id: str,
        now: dt.datetime,
        peer: str,
    ) -> e.Issued:
        lifetime = dt.timedelta(seconds=self._settings.pki_certificate_lifetime)
        issued = state.authority.issue_data_plane(
            key,
            name=name,
            node_id=node_id,
            lifetime=lifetime,
            now=now,
        )
        record = certificate_record(issued, name, node_id, state.authority.id, now)
        await records.put_certificate(connection, record)
        self.on_issued(node_id, int(issued.not_after.timestamp()))
        log.notice(
            "issued certificate %s to %s (%s, node %s), valid until %s UTC",
            issued.serial,
            peer,
            name,
            node_id,
            f"{issued.not_after:%Y-%m-%d %H:%M:%S}",
        )
        return e.Issued(
            certificate=issued.certificate.public_bytes(Encoding.DER),
            chain=_ders(state.chain),
            authorities=_ders(state.trusted),
            cluster_id=state.cluster_id,
            server_name=CONTROL_PLANE_NAME,
            trust=state.trust,
            signing_keys=list(state.signing_keys),
        )

    async def _load(self, connection: Connection) -> _State:
        record, authority = await load_active(connection, self._settings.pki_secret)
        found = await records.list_authorities(connection)
        return _State(
            revision=await records.read_revision(connection),
            cluster_id=await records.read_cluster_id(connection),
            authority=authority,
            chain=tuple(chain_of(record)),
            trusted=tuple(
                x509.load_pem_x509_certificate(one.certificate.encode())
                for one in found
                if one.state != "retired"
            ),
            revoked=await records.list_revoked(connection, self._now().timestamp()),
            signing_keys=tuple(one.signed for one in await list_keys(connection) if one.state == "active"),
        )

    def _make_tls(self, state: _State) -> LinkTls:
        key = NodeKey()
        issued = state.authority.issue_control_plane(
            key.public_key, names=(socket.gethostname(),), lifetime=OWN_LIFETIME, now=self._now()
        )
        self._own_begins = issued.not_before
        mode: Mode = "pki_check_cn" if self._settings.cluster_mtls == "pki_check_cn" else "pki"
        return LinkTls(
            mode,
            key.pair(issued.certificate, *state.chain),
            state.trusted,
            allowed_names=self._settings.cluster_allowed_common_names,
            revoked=state.revoked,
            takes_strangers=True,
        )

    def _tell(self, before: _State, after: _State) -> None:
        if after.authority.id != before.authority.id:
            log.notice("the authority %s issues certificates now", after.authority.id)
        if after.trust != before.trust:
            shown = ", ".join(one.fingerprint(hashes.SHA256()).hex()[:16] for one in after.trusted)
            log.notice("trusted authorities: %s", shown)
        for serial in sorted(after.revoked - before.revoked):
            log.notice("the certificate %s is revoked", serial)


def _ders(certificates: tuple[x509.Certificate, ...]) -> list[bytes]:
    return [one.public_bytes(Encoding.DER) for one in certificates]
