"""TLS towards upstreams: contexts by what is verified and presented, and the check that OpenSSL is not asked.

Contract. `UpstreamTls` is everything about TLS that makes two connections to one address differ: connections
are shared only where it is equal, so that one opened under looser rules never serves a stricter service. A
name is always sent where it is one (SNI); verification, when asked for, is of the chain and of that name.

The one complication is the depth: Python's ssl has no interface for it, so the verified chain is counted once
the handshake is done and before anything is sent.

Source: proxying reference §3.6; RFC 6066 §3 (no addresses in SNI), RFC 9525.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastgw.errors import CertificateError
from fastgw.tls.pair import KeyPair

SYSTEM: Final = "system"
_CONTEXTS_LIMIT: Final = 4096
#: X509_V_ERR_CERT_CHAIN_TOO_LONG of OpenSSL's x509_vfy.h.
_CHAIN_TOO_LONG: Final = 22


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How one service speaks TLS to its upstream."""

    server_name: str
    """Sent as SNI and verified; an address is verified as one and not sent."""
    is_verified: bool = False
    verify_depth: int = 1
    """Intermediate certificates allowed between the upstream's own and the trusted one."""
    authorities: tuple[str, ...] = ()
    """PEM texts of the certificates to trust; empty: those of the settings."""
    client: tuple[KeyPair, ...] = ()
    """What is presented to an upstream that asks for a certificate: one pair for each type of key."""


class UpstreamContexts:
    """OpenSSL contexts, one for each set of things trusted and presented.

    Args:
        trusted: path of a file of CA certificates for services without authorities of their own, or SYSTEM.
    """

    def __init__(self, trusted: str = SYSTEM) -> None:
        self._trusted = trusted
        self._contexts: dict[tuple[bool, tuple[str, ...], tuple[KeyPair, ...]], ssl.SSLContext] = {}

    def context_for(self, tls: UpstreamTls) -> ssl.SSLContext:
        """Return the context for *tls*; equal demands share one.

        Raises:
            CertificateError: a certificate or a file cannot be loaded; nothing is trusted in its place.
        """
        key = (tls.is_verified, tls.authorities, tls.client)
        context = self._contexts.get(key)
        if context is None:
            context = self._make(*key)
            while len(self._contexts) >= _CONTEXTS_LIMIT:
                self._contexts.pop(next(iter(self._contexts)))
            self._contexts[key] = context
        return context

    def _make(
        self, is_verified: bool, authorities: Sequence[str], client: Sequence[KeyPair]
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_RENEGOTIATION
        if is_verified:
            self._trust(context, authorities)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        for pair in client:
            with pair.as_paths() as (certificate, key):
                try:
                    context.load_cert_chain(certificate, key)
                except ssl.SSLError as error:
                    raise CertificateError(f"{pair!r}: OpenSSL refuses it: {explain(error)}") from None
        return context

    def _trust(self, context: ssl.SSLContext, authorities: Sequence[str]) -> None:
        try:
            if authorities:
                context.load_verify_locations(cadata="\n".join(authorities))
            elif self._trusted == SYSTEM:
                context.set_default_verify_paths()
            else:
                context.load_verify_locations(cafile=self._trusted)
        except ssl.SSLError as error:
            where = "ca_certificates" if authorities else self._trusted
            raise CertificateError(f"{where}: no certificate to trust: {explain(error)}") from None
        except OSError as error:
            raise CertificateError(f"{self._trusted}: cannot be read: {error.strerror}") from None


def check_depth(connection: ssl.SSLObject, depth: int) -> None:
    """Insist that the chain just verified has at most *depth* intermediate certificates.

    Raises:
        ssl.SSLCertVerificationError: it has more.
    """
    # Public from Python 3.13 on; before, only the object beneath has it.
    source: Any = connection if hasattr(connection, "get_verified_chain") else getattr(connection, "_sslobj")  # noqa: B009 - mypy has no stub for it
    intermediates = len(source.get_verified_chain() or ()) - 2
    if intermediates > depth:
        error = ssl.SSLCertVerificationError(
            f"certificate chain too long: {intermediates} intermediate certificates, {depth} allowed"
        )
        error.verify_code = _CHAIN_TOO_LONG
        error.verify_message = str(error)
        raise error


def explain(error: BaseException) -> str:
    """One clause for the log: why a handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    return str(error) or type(error).__name__
