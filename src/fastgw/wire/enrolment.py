"""How a data plane gets its certificate: messages on a websocket of their own, one question and one answer.

    AskAuthorities ──> Authorities      before anything is trusted: the asker compares the pin of its token
    Join(token)    ──> Issued           over TLS that is verified against the pinned authority
    Renew          ──> Issued           over the node's own certificate
                   ──> Declined         to any of them

Contract. Bounded like the link's messages; whoever answers closes. A token reaches the other side only after
the asker has verified it. A token is text, `fgw1.ID.SECRET.PIN`: the id finds its row, the secret (160 bits)
proves it, the pin is the SHA-256 of the authority's certificate and never leaves the asker.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Annotated, Final, NamedTuple, Self

import msgspec
from msgspec import Meta

from fastgw.errors import RemoteLinkError, SettingsError
from fastgw.wire.messages import NodeId, Text
from fastgw.wire.signature import SignedKey

ENROL_PATH: Final = "/fastgw/v1/enrol"
ENROL_LIMIT_BYTES: Final = 64 * 1024
PIN_BYTES: Final = 32
_PREFIX: Final = "fgw1"
_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 20

Der = Annotated[bytes, Meta(min_length=1, max_length=8192)]
Secret = Annotated[bytes, Meta(min_length=_SECRET_BYTES, max_length=_SECRET_BYTES)]


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all these messages."""


class AskAuthorities(Enrolment, tag="ask", frozen=True, kw_only=True):
    pass


class Join(Enrolment, tag="join", frozen=True, kw_only=True):
    token_id: Annotated[str, Meta(max_length=32)]
    token_secret: Secret
    request: Der
    """PKCS#10."""
    node_id: NodeId
    name: Annotated[str, Meta(max_length=64)]
    """What the node would like to be called; the token may say otherwise."""


class Renew(Enrolment, tag="renew", frozen=True, kw_only=True):
    request: Der


class Authorities(Enrolment, tag="authorities", frozen=True, kw_only=True):
    certificates: Annotated[list[Der], Meta(max_length=8)]


class Issued(Enrolment, tag="issued", frozen=True, kw_only=True):
    """A certificate, and all that a data plane has to know of the cluster it belongs to."""

    certificate: Der
    chain: Annotated[list[Der], Meta(max_length=4)] = []
    authorities: Annotated[list[Der], Meta(min_length=1, max_length=8)]
    cluster_id: Text
    server_name: Text
    trust: Text = ""
    """Names the state of authorities and signing keys that this answer tells; see `Welcome.trust`."""
    signing_keys: Annotated[list[SignedKey], Meta(max_length=8)] = []
    """That sign configurations now."""


class Declined(Enrolment, tag="declined", frozen=True, kw_only=True):
    reason: Text


ToOffice = AskAuthorities | Join | Renew
FromOffice = Authorities | Issued | Declined

_encoder = msgspec.msgpack.Encoder()
_to_office = msgspec.msgpack.Decoder(ToOffice)
_from_office = msgspec.msgpack.Decoder(FromOffice)


def encode(message: Enrolment) -> bytes:
    """The bytes of one message."""
    return _encoder.encode(message)


def decode_to_office(data: bytes) -> ToOffice:
    """Read what a node asks. Raises RemoteLinkError when it is no question."""
    try:
        message: ToOffice = _to_office.decode(_bounded(data))
    except msgspec.DecodeError as exc:
        raise RemoteLinkError(f"the peer asked what is no question about certificates: {exc}") from None
    return message


def decode_from_office(data: bytes) -> FromOffice:
    """Read what a control plane answers. Raises RemoteLinkError when it is no answer."""
    try:
        message: FromOffice = _from_office.decode(_bounded(data))
    except msgspec.DecodeError as exc:
        raise RemoteLinkError(f"the control plane's answer is none about certificates: {exc}") from None
    return message


def _bounded(data: bytes) -> bytes:
    if len(data) > ENROL_LIMIT_BYTES:
        raise RemoteLinkError(f"the peer sent {len(data)} bytes, more than {ENROL_LIMIT_BYTES}")
    return data


class Token(NamedTuple):
    """A token as its holder has it."""

    id: str
    secret: bytes
    pin: bytes

    @classmethod
    def make(cls, pin: bytes) -> Self:
        return cls(secrets.token_hex(_ID_BYTES), secrets.token_bytes(_SECRET_BYTES), pin)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a token's text.

        Raises:
            SettingsError: it is none; says nothing of what it holds.
        """
        parts = text.strip().split(".")
        try:
            prefix, id_, secret, pin = parts
            found = cls(id_, _from_text(secret), _from_text(pin))
        except (ValueError, binascii.Error):
            prefix, found = "", cls("", b"", b"")
        if prefix != _PREFIX or len(found.secret) != _SECRET_BYTES or len(found.pin) != PIN_BYTES:
            raise SettingsError("this is no token of 'fastgw pki token': one line that begins with 'fgw1.'")
        return found

    def __str__(self) -> str:
        return ".".join((_PREFIX, self.id, _to_text(self.secret), _to_text(self.pin)))

    def __repr__(self) -> str:
        return f"<Token {self.id}>"


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _from_text(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
