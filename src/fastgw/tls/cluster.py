"""The cluster port's TLS in the mode `shared`: one key pair on both sides.

Contract. Both ends speak TLS 1.2 or newer, both present the pair's certificate, and each takes only that
very certificate from the other: it is the context's only anchor, and after the handshake `check_peer`
compares the SHA-256 of what the peer presented with our own. Names are not compared, since nothing but this
one certificate is taken; the name sent in the handshake is `kong_clustering`, as Kong sends it.

The one complication is which certificates must do: self-signed ones without any extension, as Kong's gen_cert
makes them (X.509 v1), with `CA:TRUE`, as `openssl req -x509` makes them, and ones that a CA issued. So the
checks that Python 3.13 made a default (VERIFY_X509_STRICT) are off, and a chain may end at an anchor that is
no CA (VERIFY_X509_PARTIAL_CHAIN). Where the anchor is a CA, OpenSSL takes whatever it issued: that is what
`check_peer` is for. There are no session tickets; a TLS 1.2 session that the context itself remembers carries
the certificate that it began with, and `check_peer` looks at that.

Source: Kong's cluster_mtls=shared; CVE-2025-23419 for the resumption.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from typing import Final

from fastgw.errors import CertificateError
from fastgw.tls.keypair import KeyPair

SERVER_NAME: Final = "kong_clustering"


def make_server_context(pair: KeyPair) -> ssl.SSLContext:
    """The control plane's context for its cluster port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return _share(context, pair)


def make_client_context(pair: KeyPair) -> ssl.SSLContext:
    """The data plane's context; connect with `SERVER_NAME` as the server's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _share(context, pair)


def _share(context: ssl.SSLContext, pair: KeyPair) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=pair.der)
    with pair.as_paths() as (certificate, key):
        context.load_cert_chain(certificate, key)
    return context


def check_peer(connection: ssl.SSLObject | ssl.SSLSocket, pair: KeyPair) -> None:
    """Insist that the peer presented the pair's own certificate; call it once the handshake is done.

    Raises:
        CertificateError: it presented none, or another one.
    """
    der = connection.getpeercert(binary_form=True)
    if der is None:
        raise CertificateError("the peer presented no certificate")
    if not hmac.compare_digest(hashlib.sha256(der).digest(), pair.fingerprint):
        raise CertificateError("the peer's certificate is another one than cluster_cert")


def explain_handshake_failure(error: BaseException) -> str:
    """Say in words which check made a handshake fail, as either end sees it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _VERIFY_REASONS:
            return _VERIFY_REASONS[error.verify_code]
        return f"the peer's certificate is refused: {error.verify_message}"
    # Errors that asyncio makes itself have none.
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    if reason is not None:
        return _SSL_REASONS.get(reason, f"TLS: {reason.replace('_', ' ').lower()}")
    # asyncio tells its own deadline as an aborted connection.
    if isinstance(error, TimeoutError) or "taking longer" in str(error):
        return "the TLS handshake took too long"
    if isinstance(error, ConnectionError | EOFError):
        # A peer on asyncio that refuses our certificate closes without the alert that would say so.
        return (
            "the peer closed the connection during the TLS handshake, as one does whose cluster_cert is "
            "another one"
        )
    return f"the TLS handshake failed: {error}"


# X509_V_ERR_* of OpenSSL's x509_vfy.h
_VERIFY_REASONS: Final = {
    9: "the peer's certificate is not valid yet: compare the clocks of both machines",
    10: "the peer's certificate has expired",
    18: "the peer's certificate is another one than cluster_cert (it is self-signed)",
    19: "the peer's certificate is another one than cluster_cert (its chain ends in another root)",
    20: "the peer's certificate is another one than cluster_cert (its issuer is not known here)",
    21: "the peer's certificate is another one than cluster_cert (its issuer is not known here)",
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
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer refuses our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer refuses our certificate: it has expired by the peer's clock",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer refuses our certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer speaks no TLS version that is allowed here (1.2 or newer)",
}
