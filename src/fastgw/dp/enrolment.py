"""Asking a control plane for a certificate: to join the cluster, and again before the certificate ends.

    join    ask for the authorities, trusting nobody ─> compare the token's pin ─> connect anew, verifying
            ─> send token and request ─> identity
    renew   connect with the certificate that there is ─> send a request for a new key ─> identity

Contract. The key is made here and stays here. The token is sent only over a connection whose certificate
comes from the authority that the token pins. Everything has a deadline, and each failure is one
RemoteLinkError or CertificateError that says what to do. Of several control planes the first that answers
will do (`at_any`): all of a cluster have the same authority.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hmac
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response

from fastgw.dp.connecting import explain_name, split_address
from fastgw.errors import CertificateError, RemoteLinkError
from fastgw.tls.authority import CONTROL_PLANE_NAME, NodeKey, public_key_der
from fastgw.tls.cluster import LinkTls, check_chain, make_stranger_context
from fastgw.tls.handshake import check_dates, explain_handshake_failure
from fastgw.tls.keypair import KeyPair
from fastgw.wire import enrolment as e
from fastgw.wire.pump import explain_refusal, make_client_connection
from fastgw.wire.signature import TrustedKeys

TIMEOUT_S: Final = 10.0
_READ_BYTES: Final = 16384


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a data plane is in its cluster; the content of its identity file."""

    certificate: str
    """PEM, as are the next."""
    key: str
    chain: list[str]
    authorities: list[str]
    cluster_id: str
    server_name: str
    trust: str
    signing_keys: list[bytes] = []
    """Public keys whose configurations are taken; none: signatures are not checked."""

    def pair(self) -> KeyPair:
        """Certificate and key. Raises CertificateError when they are damaged."""
        try:
            found = [x509.load_pem_x509_certificate(one.encode()) for one in (self.certificate, *self.chain)]
        except ValueError:
            raise CertificateError("the certificate is damaged") from None
        key = NodeKey.load(self.key)
        if _public_key_of(found[0]) != public_key_der(key.public_key):
            raise CertificateError("the key does not belong to the certificate")
        return key.pair(*found)

    def link_tls(self, server_name: str = "") -> LinkTls:
        """This data plane's side of the link. Raises CertificateError when something is damaged."""
        try:
            authorities = tuple(x509.load_pem_x509_certificate(one.encode()) for one in self.authorities)
        except ValueError:
            raise CertificateError("an authority's certificate is damaged") from None
        return LinkTls("pki", self.pair(), authorities, server_name or self.server_name)


async def at_any(control_planes: Sequence[str], ask: Callable[[str], Awaitable[Identity]]) -> Identity:
    """What the first of *control_planes* answers that answers at all, asked one after the other.

    Raises:
        RemoteLinkError, CertificateError: none does; of several, with what each one said.
    """
    reasons: list[str] = []
    for address in control_planes:
        try:
            return await ask(address)
        except (RemoteLinkError, CertificateError) as exc:
            if len(control_planes) == 1:
                raise
            reason = str(exc)
            reasons.append(reason if address in reason else f"{address}: {reason}")
    raise RemoteLinkError("; ".join(reasons))


async def join(
    control_plane: str, token: e.Token, *, node_id: str, name: str, key: NodeKey | None = None
) -> Identity:
    """Join the cluster that *token* is for.

    Args:
        control_plane: `host:port` of a cluster port.
        key: of the tries before, for a token is good for one: an answer may have been lost. None: a new one.

    Raises:
        RemoteLinkError: no connection, or the control plane declines; it says why.
        CertificateError: it is not of the cluster that the token is for, or the certificate that it issues is
            not valid by the clock here.
    """
    async with _deadline(control_plane):
        first = await _exchange(
            control_plane, make_stranger_context(()), CONTROL_PLANE_NAME, e.AskAuthorities(), _trust_nobody
        )
        if not isinstance(first, e.Authorities):
            raise _declined(first)
        pinned = [one for one in first.certificates if _has_pin(one, token.pin)]
        if not pinned:
            raise CertificateError(
                f"{control_plane} is no control plane of the cluster that the token is for: its authority is "
                "another one, and the token was not sent to it"
            )
        key = key or NodeKey()
        question = e.Join(
            token_id=token.id, token_secret=token.secret, request=key.request(), node_id=node_id, name=name
        )
        anchors = tuple(map(x509.load_der_x509_certificate, pinned))
        answer = await _exchange(
            control_plane, make_stranger_context(anchors), CONTROL_PLANE_NAME, question, check_chain
        )
    return _identity(answer, key)


async def renew(control_plane: str, tls: LinkTls, believed: Sequence[bytes] = ()) -> Identity:
    """Get a certificate for a new key in the place of that of *tls*. Raises as `join` does.

    Args:
        believed: the signing keys that were believed until now.
    """
    async with _deadline(control_plane):
        key = NodeKey()
        question = e.Renew(request=key.request())
        answer = await _exchange(
            control_plane,
            tls.client_context,
            tls.name_at(split_address(control_plane)[0]),
            question,
            tls.check_control_plane,
        )
    return _identity(answer, key, believed)


async def _exchange(
    control_plane: str,
    context: ssl.SSLContext,
    server_name: str,
    question: e.Enrolment,
    check: Callable[[ssl.SSLObject], object],
) -> e.FromOffice:
    """One question, one answer."""
    host, port = split_address(control_plane)
    try:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=server_name, limit=e.ENROL_LIMIT_BYTES
        )
    except ssl.SSLError as exc:
        raise RemoteLinkError(f"{control_plane}: {explain_handshake_failure(exc, is_shared=False)}") from None
    except OSError as exc:
        # Also what asyncio makes of several addresses.
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        raise RemoteLinkError(f"cannot connect to {control_plane}: {reason}") from None
    except ValueError as exc:
        raise RemoteLinkError(f"cannot connect to {control_plane}: {explain_name(host, exc)}") from None
    try:
        check(writer.get_extra_info("ssl_object"))
        return await _ask(make_client_connection(control_plane, e.ENROL_PATH), reader, writer, question)
    except OSError as exc:
        why = explain_handshake_failure(exc, is_shared=False) if isinstance(exc, ssl.SSLError) else str(exc)
        raise RemoteLinkError(f"{control_plane} broke the connection: {why}") from None
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()


async def _ask(
    protocol: ClientProtocol,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    question: e.Enrolment,
) -> e.FromOffice:
    protocol.send_request(protocol.connect())
    while True:
        for piece in protocol.data_to_send():
            if piece:
                writer.write(piece)
        data = await reader.read(_READ_BYTES)
        if not data:
            raise RemoteLinkError("the control plane closed the connection without an answer")
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Response) and protocol.handshake_exc is None:
                protocol.send_binary(e.encode(question))
            elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                return e.decode_from_office(bytes(event.data))
        if protocol.handshake_exc is not None:
            raise RemoteLinkError(f"no certificate: {explain_refusal(protocol.handshake_exc)}")


def _identity(answer: e.FromOffice, key: NodeKey, believed: Sequence[bytes] = ()) -> Identity:
    """Make an identity of an answer; of its keys those are taken that *believed* ones endorse, if any are."""
    if not isinstance(answer, e.Issued):
        raise _declined(answer)
    try:
        certificate = x509.load_der_x509_certificate(answer.certificate)
        identity = Identity(
            certificate=_pem(certificate),
            key=key.pem,
            chain=[_pem(x509.load_der_x509_certificate(one)) for one in answer.chain],
            authorities=[_pem(x509.load_der_x509_certificate(one)) for one in answer.authorities],
            cluster_id=answer.cluster_id,
            server_name=answer.server_name,
            trust=answer.trust,
            signing_keys=(
                TrustedKeys.of(believed).admit(answer.cluster_id, answer.signing_keys).publics()
                if believed
                else [one.public for one in answer.signing_keys]
            ),
        )
    except (ValueError, x509.InvalidVersion):
        raise RemoteLinkError("the control plane's answer holds a damaged certificate") from None
    if _public_key_of(certificate) != public_key_der(key.public_key):
        raise RemoteLinkError("the control plane issued a certificate for another key")
    # One by a wrong clock would keep this node out once the clock is right.
    check_dates(certificate, dt.datetime.now(dt.UTC), "the certificate that the control plane issued")
    return identity


def _declined(answer: e.FromOffice) -> RemoteLinkError:
    if isinstance(answer, e.Declined):
        return RemoteLinkError(f"the control plane declined: {answer.reason}")
    return RemoteLinkError("the control plane answered another question")


@contextlib.asynccontextmanager
async def _deadline(control_plane: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield
    except TimeoutError:
        raise RemoteLinkError(f"{control_plane} gave no answer within {TIMEOUT_S:g} s") from None


def _trust_nobody(_connection: ssl.SSLObject) -> None:
    """What is asked first is public, and the answer is compared with the pin."""


def _has_pin(der: bytes, pin: bytes) -> bool:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return hmac.compare_digest(digest.finalize(), pin)


def _public_key_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
