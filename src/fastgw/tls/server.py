"""TLS towards clients: what is negotiated, and which certificate a handshake gets.

Contract. A `CertificateStore` is one set of certificates under one `Policy`; `wrap` begins a handshake with
what the store holds at that moment. The default pairs come from the settings (`replace_default`), those with
a name from the configuration (`serve`); both change what later handshakes get and touch no connection. The
certificate is chosen by the name that the client asks for (SNI):

    exact name, *.name with its first label replaced, name.* with its last label replaced, "*", the default

A client that asks for no name, or for one that is none, gets the default.

The one complication is OpenSSL's: tickets are sealed and opened by the context that a handshake began with,
the default one, whatever certificate it went on with. So resumption works for all names of a store, within
one process and until `replace_default`: Python's ssl cannot share ticket keys between processes or contexts.

Source: proxying reference §6.1, §6.2; Mozilla's server side TLS, intermediate.
"""

from __future__ import annotations

import re
import ssl
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import msgspec

from fastgw.errors import CertificateError
from fastgw.tls.pair import KeyPair

CONTEXTS_LIMIT: Final = 4096
"""Contexts of named certificates that a store keeps; the one longest unused makes room."""

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


class ProxyTls(msgspec.Struct, frozen=True):
    """What ssl listeners need of the settings; plain data, so that it can travel to a worker."""

    policy: Policy
    default: tuple[KeyPair, ...]


class Named(NamedTuple):
    """Which certificate a name stands for: equal as long as it is the same one with the same content."""

    id: str
    digest: str


class NamedCertificates(Protocol):
    """The certificates of one configuration by the names they are shown for."""

    def find(self, name: str) -> Named | None:
        """The certificate of exactly this name or wildcard, lower case; None: it has none."""

    def pairs_of(self, id_: str) -> Sequence[KeyPair]:
        """One pair for each type of key."""

    def digest_of(self, id_: str) -> str | None:
        """The digest of the certificate with this id; None: there is none any more."""


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
        self._pairs = tuple(default)
        self._named: NamedCertificates | None = None
        self._contexts: OrderedDict[Named, ssl.SSLContext] = OrderedDict()
        self._default = self._make_default(self._pairs)

    def replace_default(self, default: Sequence[KeyPair]) -> None:
        """Present these by default from the next handshake on; the same ones are no work.

        Raises:
            CertificateError: OpenSSL refuses a pair; what was served stays.
        """
        if tuple(default) != self._pairs:
            self._default = self._make_default(default)
            self._pairs = tuple(default)

    def serve(self, named: NamedCertificates) -> None:
        """Choose among *named* from the next handshake on; each is loaded on first use.

        Contexts of certificates that are the same as before are kept, and no others: a key that is gone
        from the configuration goes from memory.
        """
        self._named = named
        for key in [key for key in self._contexts if named.digest_of(key.id) != key.digest]:
            del self._contexts[key]

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ServerTls:
        """Begin a handshake with a client."""
        wrapped = self._default.wrap_bio(incoming, outgoing, server_side=True)
        assert isinstance(wrapped, ServerTls)
        return wrapped

    def select(self, name: str | None) -> ssl.SSLContext:
        """Return the context for what a client asks for.

        Raises:
            CertificateError: the certificate of that name cannot be loaded.
        """
        if name is not None and self._named is not None:
            for candidate in candidates(name):
                found = self._named.find(candidate)
                if found is not None:
                    return self._context_of(found)
        return self._default

    def _context_of(self, named: Named) -> ssl.SSLContext:
        context = self._contexts.get(named)
        if context is None:
            assert self._named is not None
            context = make_server_context(self._policy, self._named.pairs_of(named.id))
            if len(self._contexts) >= CONTEXTS_LIMIT:
                self._contexts.popitem(last=False)
            self._contexts[named] = context
        else:
            self._contexts.move_to_end(named)
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
        if selected is not context:
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
