"""The handshake of the cluster link: what a failed one leaves to say, to the peer and in the log.

Contract. Contexts are `LinkContext`s. When a handshake on one fails, the exception carries what OpenSSL had
to say to the peer (`alert_of`), and `explain_handshake_failure` names the check that failed.

Two complications. Event loops throw away the alert that OpenSSL made, and the peer sees a connection that
ends without a word: so whoever connects or accepts keeps a second descriptor during the handshake, and sends
what `alert_of` gives. And Python does not tell what a peer presented whose verification failed, so that a
wrong clock could not be told from an old certificate: so these contexts leave the dates to `check_dates`,
which is for every certificate of `verified_chain` once the handshake is done.
"""

from __future__ import annotations

import datetime as dt
import ssl
from typing import Any, Final

from cryptography import x509

from fastgw.errors import CertificateError

NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h, for `verify_flags`."""
_ALERT_LIMIT_BYTES: Final = 4096


class LinkTlsObject(ssl.SSLObject):
    """One end of one connection, which keeps what a failed handshake leaves."""

    outgoing: ssl.MemoryBIO
    """Where OpenSSL writes what goes to the peer."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            error.__dict__["alert"] = self.outgoing.read(_ALERT_LIMIT_BYTES)
            raise


class LinkContext(ssl.SSLContext):
    """A context whose connections are `LinkTlsObject`s."""

    sslobject_class = LinkTlsObject

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any) -> Any:
        wrapped = super().wrap_bio(incoming, outgoing, *args, **kwargs)
        assert isinstance(wrapped, LinkTlsObject)
        wrapped.outgoing = outgoing
        return wrapped


def alert_of(error: BaseException) -> bytes:
    """What is left to send to the peer whose handshake failed so; empty when there is nothing."""
    alert = getattr(error, "alert", b"")
    assert isinstance(alert, bytes)
    return alert


def verified_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> list[x509.Certificate]:
    """The certificates from the peer's to the trusted one, after the handshake; none if it was resumed."""
    # Public from Python 3.13 on; before, only the object beneath has it, and gives no bytes but objects.
    has_it = hasattr(connection, "get_verified_chain")
    source: Any = connection if has_it else getattr(connection, "_sslobj")  # noqa: B009 - mypy has no stub
    return [
        x509.load_der_x509_certificate(one)
        if isinstance(one, bytes)
        else x509.load_pem_x509_certificate(one.public_bytes().encode())
        for one in source.get_verified_chain() or ()
    ]


def check_dates(
    certificate: x509.Certificate, now: dt.datetime, called: str = "the peer's certificate"
) -> None:
    """Insist that a certificate is valid now.

    Raises:
        CertificateError: it is not; says its dates and the clock's, since either may be wrong.
    """
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not_before <= now < not_after:
        return
    fault = "is not valid yet" if now < not_before else "has expired"
    raise CertificateError(
        f"{called} ({_subject_of(certificate)}) {fault}: it is valid from "
        f"{not_before:%Y-%m-%d %H:%M:%S} to {not_after:%Y-%m-%d %H:%M:%S} UTC, and the clock here says "
        f"{now:%Y-%m-%d %H:%M:%S} UTC; compare the clocks of both machines"
    )


def explain_handshake_failure(error: BaseException, *, is_shared: bool = True) -> str:
    """Say in words which check made a handshake fail, as either end sees it.

    Args:
        is_shared: whether both sides are to have one certificate, or certificates of one authority.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_verification(error, is_shared)
    # Errors that asyncio makes itself have none.
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    if reason is not None:
        words = _SSL_REASONS.get(reason, f"TLS: {reason.replace('_', ' ').lower()}")
        return words if is_shared else _PKI_SSL_REASONS.get(reason, words)
    # asyncio tells its own deadline as an aborted connection.
    if isinstance(error, TimeoutError) or "taking longer" in str(error):
        return "the TLS handshake took too long"
    if isinstance(error, ConnectionError | EOFError):
        # Kong's nodes close without the alert that would say so.
        why = "cluster_cert is another one" if is_shared else "authority is another one"
        return f"the peer closed the connection during the TLS handshake, as one does whose {why}"
    return f"the TLS handshake failed: {error}"


def _explain_verification(error: ssl.SSLCertVerificationError, is_shared: bool) -> str:
    why = _ISSUERS.get(error.verify_code)
    if why is not None and is_shared:
        return f"the peer's certificate is another one than cluster_cert ({why})"
    if why is not None:
        return f"the peer's certificate was not issued by an authority that is trusted here ({why})"
    fault = _PURPOSES.get(error.verify_code, f"is refused: {error.verify_message}")
    return f"the peer's certificate {fault}"


def _subject_of(certificate: x509.Certificate) -> str:
    # What a stranger wrote goes into one line of the log.
    text = certificate.subject.rfc4514_string()[:200]
    return "".join(character if character.isprintable() else "?" for character in text) or "no subject"


# X509_V_ERR_* of OpenSSL's x509_vfy.h
_ISSUERS: Final = {
    7: "its signature is wrong",
    18: "it is self-signed",
    19: "its chain ends in another root",
    20: "its issuer is not known here",
    21: "its issuer is not known here",
}
_PURPOSES: Final = {
    24: "comes from an issuer that is no CA (basicConstraints)",
    26: "is not meant for this side of a connection (extendedKeyUsage: data planes need clientAuth, control "
    "planes serverAuth)",
    32: "comes from an issuer whose keyUsage does not allow issuing",
    62: "does not bear the name that was asked for",
    64: "does not bear the address that was asked for",
}

_SSL_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer presented no certificate",
    "UNSUPPORTED_PROTOCOL": "the peer speaks no TLS version that is allowed here (1.2 or newer)",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS",
    "HTTP_REQUEST": "the peer does not speak TLS but plain HTTP",
    "NO_SHARED_CIPHER": "there is no cipher that both ends allow",
    # Alerts: what the peer told about its own check of us.
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer insists on a certificate, and got none",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer refuses our certificate: its cluster_cert is another one",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer refuses our certificate; its log says why",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer refuses our certificate: it has expired by the peer's clock",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer refuses our certificate; its log says why",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the peer refuses our certificate: it is not meant for this side "
    "of a connection (extendedKeyUsage)",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer speaks no TLS version that is allowed here (1.2 or newer)",
}
_PKI_SSL_REASONS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "the peer refuses our certificate: no authority in its cluster_ca_cert "
    "issued it",
}
