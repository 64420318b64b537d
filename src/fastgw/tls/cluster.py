"""TLS of the cluster link, as `cluster_mtls` wants it: what an end presents, and what it takes of its peer.

    shared         one key pair on both sides; each takes only that very certificate
    pki            certificates of the authorities in cluster_ca_cert; the data plane checks the name as well
    pki_check_cn   as pki, and the control plane takes only data planes with a name that it allows

Contract. A `LinkTls` is immutable; when files change there is a new one for the connections to come
(`Credentials.current`). Its contexts demand TLS 1.2 or newer and verify the peer in the handshake; what
OpenSSL does not check, `check_data_plane` and `check_control_plane` do after the handshake and before
anything is read. There are no session tickets; a TLS 1.2 session that a context itself remembers carries the
certificate that it began with, and these checks look at that.

The one complication is which certificates must do. `shared`: self-signed ones without any extension, as
Kong's gen_cert makes them (X.509 v1), with `CA:TRUE`, as `openssl req -x509` makes them, and ones that a CA
issued. So the checks that Python 3.13 made a default (VERIFY_X509_STRICT) are off, and a chain may end at an
anchor that is no CA (VERIFY_X509_PARTIAL_CHAIN). Where the anchor is a CA, OpenSSL takes whatever it issued:
that is what comparing the SHA-256 of the two certificates is for. `pki`: an authority may be an intermediate
one, so a chain may end there, too; but it must say CA:TRUE. A certificate without extendedKeyUsage does for
either side, as for nginx; one that has it needs clientAuth on a data plane, serverAuth on a control plane.

Source: Kong's cluster_mtls; CVE-2025-23419 for the resumption.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from fastgw.errors import CertificateError
from fastgw.tls.authority import serial_of
from fastgw.tls.handshake import NO_CHECK_TIME, LinkContext, check_dates, verified_chain
from fastgw.tls.keypair import KeyPair

SERVER_NAME: Final = "kong_clustering"
Mode = Literal["shared", "pki", "pki_check_cn"]


@dataclass(frozen=True)
class LinkTls:
    """One end's side of the link.

    Raises:
        CertificateError: OpenSSL refuses the pair or the authorities (when a context is made).
    """

    mode: Mode
    pair: KeyPair
    authorities: tuple[x509.Certificate, ...] = ()
    """Whose certificates are taken; none in the mode shared."""
    server_name: str = SERVER_NAME
    """What a data plane asks for by SNI and, unless the mode is shared, insists on; none: see `name_at`."""
    allowed_names: frozenset[str] = frozenset()
    """Common names of data planes that pki_check_cn takes, lower case; none: those of our parent domain."""
    revoked: frozenset[str] = frozenset()
    """Serial numbers that are not taken, as `authority.serial_of` writes them."""
    takes_strangers: bool = False
    """Whether a control plane completes handshakes with those who have no certificate: for enrolment."""

    @classmethod
    def shared(cls, pair: KeyPair) -> LinkTls:
        return cls("shared", pair)

    @property
    def is_shared(self) -> bool:
        return self.mode == "shared"

    def name_at(self, host: str) -> str:
        """The name that the control plane at *host* is to have: `server_name`, or else that host itself."""
        return self.server_name or host

    @cached_property
    def server_context(self) -> ssl.SSLContext:
        """The control plane's context."""
        context = LinkContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        return self._fill(context)

    @cached_property
    def client_context(self) -> ssl.SSLContext:
        """The data plane's context; connect with `name_at` as the server's name."""
        context = LinkContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = not self.is_shared
        return self._fill(context)

    def check_data_plane(self, connection: ssl.SSLObject | ssl.SSLSocket) -> x509.Certificate | None:
        """Return the data plane's certificate if it is one that this control plane takes.

        Returns:
            None for a stranger, where those are taken.

        Raises:
            CertificateError: it is not, and which check says so.
        """
        if self.takes_strangers and connection.getpeercert(binary_form=True) is None:
            return None
        certificate = self._check(connection)
        if self.mode == "pki_check_cn":
            self._check_name(certificate)
        return certificate

    def check_control_plane(self, connection: ssl.SSLObject | ssl.SSLSocket) -> x509.Certificate:
        """Return the control plane's certificate if it is one that this data plane takes. Raises as above."""
        return self._check(connection)

    def _fill(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_OPTIONAL if self.takes_strangers else ssl.CERT_REQUIRED
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
        anchors = b"".join(one.public_bytes(Encoding.DER) for one in self.authorities) or self.pair.der
        try:
            context.load_verify_locations(cadata=anchors)
            with self.pair.as_paths() as (certificate, key):
                context.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            raise CertificateError(f"cluster_cert: OpenSSL refuses it: {error.reason or error}") from None
        return context

    def _check(self, connection: ssl.SSLObject | ssl.SSLSocket) -> x509.Certificate:
        der = connection.getpeercert(binary_form=True)
        if der is None:
            raise CertificateError("the peer presented no certificate")
        if self.is_shared and not hmac.compare_digest(hashlib.sha256(der).digest(), self.pair.fingerprint):
            raise CertificateError("the peer's certificate is another one than cluster_cert")
        certificate = x509.load_der_x509_certificate(der)
        if serial_of(certificate) in self.revoked:
            raise CertificateError(
                f"the peer's certificate ({common_name_of(certificate)}, {serial_of(certificate)}) is revoked"
            )
        now = dt.datetime.now(dt.UTC)
        for one in (certificate, *verified_chain(connection)):
            check_dates(one, now)
        return certificate

    def _check_name(self, certificate: x509.Certificate) -> None:
        names = names_of(certificate)
        shown = common_name_of(certificate) or "none"
        if self.allowed_names:
            if not names & self.allowed_names:
                raise CertificateError(
                    f"the peer's common name ({shown}) is not one of cluster_allowed_common_names"
                )
            return
        own = parent_domain(common_name_of(x509.load_der_x509_certificate(self.pair.der)))
        if not own:
            raise CertificateError(
                "cluster_allowed_common_names is empty, and the common name of cluster_cert has no parent "
                "domain that a data plane could share"
            )
        if parent_domain(common_name_of(certificate)) != own:
            raise CertificateError(
                f"the peer's common name ({shown}) is not in the parent domain of cluster_cert's ({own})"
            )


def make_stranger_context(authorities: Sequence[x509.Certificate]) -> ssl.SSLContext:
    """The context of a node that has no certificate yet; without *authorities* it verifies nothing.

    After the handshake call `check_chain`, except where nothing is verified.
    """
    context = LinkContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not authorities:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    context.load_verify_locations(cadata=b"".join(one.public_bytes(Encoding.DER) for one in authorities))
    return context


def check_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
    """Insist that a verified peer's chain is valid now. Raises CertificateError."""
    now = dt.datetime.now(dt.UTC)
    for one in verified_chain(connection):
        check_dates(one, now)


class Credentials(Protocol):
    """Where a process takes its side of the link from, for each connection anew."""

    def current(self) -> LinkTls:
        """What connections to come are made with; never raises, and never waits long."""
        ...


class FixedCredentials:
    """The same for ever."""

    def __init__(self, tls: LinkTls) -> None:
        self._tls = tls

    def current(self) -> LinkTls:
        return self._tls


def common_name_of(certificate: x509.Certificate) -> str:
    """The last common name of the subject, lower case; empty when there is none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[-1].value).lower() if found else ""


def names_of(certificate: x509.Certificate) -> frozenset[str]:
    """The common name and the DNS names, lower case."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        found = []
    return frozenset(name for name in (common_name_of(certificate), *map(str.lower, found)) if name)


def parent_domain(name: str) -> str:
    """*name* without its first label; empty when nothing is left."""
    return name.partition(".")[2]


def check_usage(certificate: x509.Certificate, *, is_server: bool, called: str) -> None:
    """Insist that our own certificate may be used on our side, before a peer says so.

    Raises:
        CertificateError: its extendedKeyUsage names other uses only.
    """
    oid: ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
    try:
        usages: Sequence[ObjectIdentifier] = list(
            certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        )
    except x509.ExtensionNotFound:
        return
    # OpenSSL does not take anyExtendedKeyUsage for it either.
    if oid not in usages:
        side, usage = ("control plane", "serverAuth") if is_server else ("data plane", "clientAuth")
        raise CertificateError(f"{called}: a {side}'s certificate needs {usage} in its extendedKeyUsage")
