"""TLS towards clients: what is negotiated, and which certificate a handshake gets.

Contract. A `CertificateStore` is one set of certificates under one `Policy`; `wrap` begins a handshake with
what the store holds at that moment, and `replace` gives later handshakes another set without touching
connections. The certificate is chosen by the name that the client asks for (SNI):

    exact name, *.name with its first label replaced, name.* with its last label replaced, "*", the default

A client that asks for no name, or for one that is none, gets the default.

The one complication is OpenSSL's: tickets are sealed and opened by the context that a handshake began with,
the default one, whatever certificate it went on with. So resumption works for all names of a store, within
one process and until `replace`: Python's ssl cannot share ticket keys between processes or contexts.

Source: proxying reference §6.1, §6.2; Mozilla's server side TLS, intermediate.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fastgw.errors import CertificateError
from fastgw.tls.keypair import KeyPair

_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_ALL_NUMBERS = re.compile(r"[0-9.]+")

INTERMEDIATE_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""For TLS 1.2; those of 1.3 are OpenSSL's. Finite-field DHE is left out: it costs the server far more than
the client, and no client that knows TLS 1.2 needs it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a handshake may negotiate."""

    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: str = INTERMEDIATE_CIPHERS
    """For TLS 1.2, in OpenSSL's form."""
    prefers_own_order: bool = False
    gives_tickets: bool = True


class ServerTls(ssl.SSLObject):
    """The server's end of one connection."""

    requested_name: str | None = None
    """What the client asked for by SNI."""


class CertificateStore:
    """The certificates of some listeners.

    Args:
        default: one pair, or one for each type of key: the client's abilities choose.

    Raises:
        CertificateError: OpenSSL refuses a pair, or the policy's ciphers.
    """

    def __init__(self, policy: Policy, default: Sequence[KeyPair]) -> None:
        self._policy = policy
        self._named: Mapping[str, Sequence[KeyPair]] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._default = self._make_default(default)

    def replace(self, default: Sequence[KeyPair], named: Mapping[str, Sequence[KeyPair]]) -> None:
        """Serve these from the next handshake on; when it raises, what was served stays.

        Args:
            named: by name or wildcard, lower case.

        Raises:
            CertificateError: OpenSSL refuses a default pair. Named ones are loaded on first use.
        """
        context = self._make_default(default)
        self._default, self._named, self._contexts = context, named, {}

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ServerTls:
        """Begin a handshake with a client."""
        wrapped = self._default.wrap_bio(incoming, outgoing, server_side=True)
        assert isinstance(wrapped, ServerTls)
        return wrapped

    def select(self, name: str | None) -> ssl.SSLContext:
        """Return the context for what a client asks for."""
        if name is None or not self._named:
            return self._default
        for candidate in candidates(name):
            if candidate in self._named:
                return self._context_of(candidate)
        return self._default

    def _context_of(self, name: str) -> ssl.SSLContext:
        context = self._contexts.get(name)
        if context is None:
            context = self._contexts[name] = make_server_context(self._policy, self._named[name])
        return context

    def _make_default(self, pairs: Sequence[KeyPair]) -> ssl.SSLContext:
        context = make_server_context(self._policy, pairs)
        context.sslobject_class = ServerTls
        context.sni_callback = self._on_client_hello
        return context

    def _on_client_hello(
        self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> int | None:
        """Called in the middle of a handshake; None lets it go on, an alert's number ends it."""
        assert isinstance(connection, ServerTls)
        connection.requested_name = name
        try:
            selected = self.select(name)
        except CertificateError:
            return int(ssl.ALERT_DESCRIPTION_INTERNAL_ERROR)
        if selected is not self._default:
            connection.context = selected
        return None


def candidates(name: str) -> list[str]:
    """The names under which a certificate for *name* may stand, best first; none for what is no host name."""
    name = name.lower().removesuffix(".")
    if not _NAME.fullmatch(name) or _ALL_NUMBERS.fullmatch(name):
        return []
    found = [name]
    first, _, rest = name.partition(".")
    if "." in rest:
        found.append(f"*.{rest}")
    before, dot, _ = name.rpartition(".")
    if dot:
        found.append(f"{before}.*")
    found.append("*")
    return found


def make_server_context(policy: Policy, pairs: Sequence[KeyPair]) -> ssl.SSLContext:
    """Make the context of a server that presents *pairs*, one for each type of key.

    Raises:
        CertificateError: OpenSSL refuses a pair or the ciphers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = policy.minimum, policy.maximum
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if policy.prefers_own_order:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if not policy.gives_tickets:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    try:
        context.set_ciphers(policy.ciphers)
    except ssl.SSLError:
        raise CertificateError(f"no cipher of {policy.ciphers!r} is known to {ssl.OPENSSL_VERSION}") from None
    context.set_alpn_protocols(["http/1.1"])
    for pair in pairs:
        with pair.as_paths() as (certificate, key):
            try:
                context.load_cert_chain(certificate, key)
            except ssl.SSLError as error:
                raise CertificateError(f"{pair!r}: OpenSSL refuses it: {error.reason or error}") from None
    return context
