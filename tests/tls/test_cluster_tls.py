"""The cluster port's contexts, by handshakes in memory: who is let in, who is not, and what is said about it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fastgw.errors import CertificateError
from fastgw.tls.cluster import SERVER_NAME, LinkTls
from fastgw.tls.generate import GeneratedPair
from fastgw.tls.handshake import explain_handshake_failure
from fastgw.tls.keypair import KeyPair
from tests.tls.certificates import KINDS, gen_cert_pair, issued_pair, loaded, make_pair, openssl_pair, pair_of


def make_server_context(pair: KeyPair) -> ssl.SSLContext:
    return LinkTls.shared(pair).server_context


def make_client_context(pair: KeyPair) -> ssl.SSLContext:
    return LinkTls.shared(pair).client_context


def check_peer(connection: ssl.SSLObject, pair: KeyPair) -> None:
    LinkTls.shared(pair).check_data_plane(connection)
    LinkTls.shared(pair).check_control_plane(connection)


class Ends:
    """Two TLS ends joined in memory."""

    def __init__(
        self, server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(to_server, to_client, server_side=True)
        self.client = client.wrap_bio(to_client, to_server, server_hostname=SERVER_NAME, session=session)

    def shake_hands(self) -> None:
        for _ in range(6):
            for end in (self.client, self.server):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        # TLS 1.3: what the server thinks of the client's certificate comes with the first read.
        try:
            self.client.read(1)
        except ssl.SSLWantReadError:
            pass


@contextmanager
def refused(reason: str) -> Iterator[None]:
    with pytest.raises(ssl.SSLError) as caught:
        yield
    assert reason in explain_handshake_failure(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_one_pair_on_both_sides_is_enough(kind: str, version: ssl.TLSVersion) -> None:
    pair = loaded(pair_of(kind))
    server, client = make_server_context(pair), make_client_context(pair)
    client.maximum_version = client.minimum_version = version
    ends = Ends(server, client)
    ends.shake_hands()
    check_peer(ends.server, pair)
    check_peer(ends.client, pair)


def test_python_313_strictness_does_not_come_back() -> None:
    pair = loaded(gen_cert_pair())
    for context in (make_server_context(pair), make_client_context(pair)):
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
        assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_second_connection_shows_its_certificate_too(version: ssl.TLSVersion) -> None:
    pair = loaded(gen_cert_pair())
    server, client = make_server_context(pair), make_client_context(pair)
    client.maximum_version = version
    first = Ends(server, client)
    first.shake_hands()
    second = Ends(server, client, session=first.client.session)
    second.shake_hands()
    assert not (second.client.session_reused and version is ssl.TLSVersion.TLSv1_3)
    check_peer(second.server, pair)
    with pytest.raises(CertificateError):
        check_peer(second.server, loaded(issued_pair()))


def test_a_client_without_a_certificate_is_refused() -> None:
    pair = loaded(gen_cert_pair())
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    with refused("the peer presented no certificate"):
        Ends(make_server_context(pair), client).shake_hands()


@pytest.mark.parametrize("other", [openssl_pair, issued_pair, make_pair])
def test_another_certificate_is_refused_by_both_sides(other: Callable[[], GeneratedPair]) -> None:
    ours, theirs = loaded(gen_cert_pair()), loaded(other())
    with refused("another one than cluster_cert"):
        Ends(make_server_context(ours), make_client_context(theirs)).shake_hands()
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    with theirs.as_paths() as paths:
        trusting.load_cert_chain(*paths)
    with refused("another one than cluster_cert"):
        Ends(make_server_context(ours), trusting).shake_hands()


def test_a_certificate_that_ours_issued_is_refused_by_its_fingerprint() -> None:
    """openssl's pair is a CA, so OpenSSL takes what it signed; the comparison of fingerprints does not."""
    ours = loaded(openssl_pair())
    key = load_pem_private_key(ours.key_pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    theirs = loaded(make_pair(subject="intruder", issuer="kong_clustering", signer=key))
    client = make_client_context(ours)
    with theirs.as_paths() as paths:
        client.load_cert_chain(*paths)
    ends = Ends(make_server_context(ours), client)
    ends.shake_hands()
    with pytest.raises(CertificateError, match="another one than cluster_cert"):
        check_peer(ends.server, ours)


def test_no_certificate_is_refused_by_the_comparison_too() -> None:
    pair = loaded(gen_cert_pair())
    server, client = make_server_context(pair), make_client_context(pair)
    server.verify_mode = ssl.CERT_NONE
    ends = Ends(server, client)
    ends.shake_hands()
    with pytest.raises(CertificateError, match="presented no certificate"):
        check_peer(ends.server, pair)


def test_tls_below_12_is_refused() -> None:
    pair = loaded(gen_cert_pair())
    client = make_client_context(pair)
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        client.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    with refused("TLS version"):
        Ends(make_server_context(pair), client).shake_hands()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "took too long"),
        (ConnectionAbortedError("SSL handshake is taking longer than 5 seconds: aborting"), "took too long"),
        (ConnectionResetError(), "closed the connection"),
        (OSError("odd"), "the TLS handshake failed: odd"),
        (ssl.SSLError(1, "no"), "the TLS handshake failed"),
    ],
)
def test_other_failures_are_put_into_words(error: Exception, words: str) -> None:
    assert words in explain_handshake_failure(error)
