"""The modes pki and pki_check_cn, by handshakes in memory: each check, and the line that names it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import CertificateError
from fastgw.settings import Role, Settings, load_settings
from fastgw.tls.cluster import LinkTls, Mode, parent_domain
from fastgw.tls.cluster_files import LOOK_EVERY_S, FileCredentials, load_link_tls
from fastgw.tls.handshake import alert_of, explain_handshake_failure
from fastgw.tls.keypair import KeyPair
from tests.tls.authority import Authority, write_pair

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
CA = Authority("the CA")
CP = CA.issue("cp.example.com", usages=(SERVER,))
DP = CA.issue("dp-1.example.com", usages=(CLIENT,))


def end(
    pair: KeyPair,
    *,
    trusts: Authority = CA,
    mode: Mode = "pki",
    name: str = "cp.example.com",
    allowed: str = "",
) -> LinkTls:
    return LinkTls(mode, pair, (trusts.certificate,), name, frozenset(filter(None, allowed.split(","))))


def meet(control_plane: LinkTls, data_plane: LinkTls) -> tuple[x509.Certificate, x509.Certificate]:
    """Shake hands and check; what each got of the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = control_plane.server_context.wrap_bio(to_server, to_client, server_side=True)
    client = data_plane.client_context.wrap_bio(to_client, to_server, server_hostname=data_plane.server_name)
    for _ in range(4):
        for one in (client, server):
            try:
                one.do_handshake()
            except ssl.SSLWantReadError:
                continue
    of_data_plane = control_plane.check_data_plane(server)
    assert of_data_plane is not None
    return of_data_plane, data_plane.check_control_plane(client)


def refusal(control_plane: LinkTls, data_plane: LinkTls) -> str:
    """What the end that refuses says."""
    with pytest.raises((ssl.SSLError, CertificateError)) as caught:
        meet(control_plane, data_plane)
    if isinstance(caught.value, CertificateError):
        return str(caught.value)
    assert alert_of(caught.value), "nothing to say to the peer"
    return explain_handshake_failure(caught.value, is_shared=False)


def test_certificates_of_one_authority_take_each_other() -> None:
    of_data_plane, of_control_plane = meet(end(CP), end(DP))
    assert of_data_plane.not_valid_after_utc == DP.not_after
    assert of_control_plane.not_valid_after_utc == CP.not_after


def test_an_intermediate_one_may_issue_and_may_be_trusted() -> None:
    between = CA.under("between")
    pair = between.issue("dp-2.example.com", chain=(between,))
    meet(end(CP), end(pair))
    meet(end(CP, trusts=between), end(between.issue("dp-3.example.com")))
    assert "was not issued by an authority" in refusal(end(CP, trusts=between), end(DP))


def test_an_intermediate_one_that_has_expired_is_refused() -> None:
    """The dates are ours to check, for the whole chain."""
    between = CA.under("between", days=(-3, -1))
    words = refusal(end(CP), end(between.issue("dp-2.example.com", chain=(between,))))
    assert "(CN=between) has expired" in words
    words = refusal(end(CP, trusts=between), end(between.issue("dp-2.example.com")))
    assert "(CN=between) has expired" in words


STRANGE = Authority("a stranger")


@pytest.mark.parametrize(
    ("control_plane", "data_plane", "words"),
    [
        (end(CP), end(STRANGE.issue("x")), "was not issued by an authority that is trusted here"),
        (end(STRANGE.issue("cp.example.com")), end(DP), "its issuer is not known here"),
        (end(CP), end(CA.issue("old", days=(-3, -1))), "(CN=old) has expired: it is valid from"),
        (end(CP), end(CA.issue("new", days=(1, 3))), "(CN=new) is not valid yet: it is valid from"),
        (end(CA.issue("cp.example.com", days=(1, 3))), end(DP), "and the clock here says 20"),
        (end(CP), end(CA.issue("dp", usages=(SERVER,))), "data planes need clientAuth"),
        (end(CA.issue("cp.example.com", usages=(CLIENT,))), end(DP), "control planes serverAuth"),
        (end(CP), end(DP, name="other.example.com"), "does not bear the name that was asked for"),
        (end(CP), end(DP, name="192.0.2.1"), "does not bear the address that was asked for"),
    ],
)
def test_each_refusal_names_its_check(control_plane: LinkTls, data_plane: LinkTls, words: str) -> None:
    assert words in refusal(control_plane, data_plane)


def test_the_peer_hears_by_an_alert_why_it_is_refused() -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = end(CP).server_context.wrap_bio(to_server, to_client, server_side=True)
    stranger = end(CA.issue("dp", usages=(SERVER,)))
    client = stranger.client_context.wrap_bio(to_client, to_server, server_hostname="cp.example.com")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    client.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        server.do_handshake()
    to_client.write(alert_of(caught.value))
    with pytest.raises(ssl.SSLError) as heard:
        client.read(1)
    words = explain_handshake_failure(heard.value, is_shared=False)
    assert "the peer refuses our certificate: it is not meant for this side" in words


class TestNames:
    def test_an_allowed_name_counts_as_common_name_or_dns_name(self) -> None:
        both = CA.issue("dp-1", "dp-1.eu.example.com")
        for allowed in ("dp-1", "other,dp-1.eu.example.com"):
            meet(end(CP, mode="pki_check_cn", allowed=allowed), end(both))

    def test_another_name_is_refused(self) -> None:
        words = refusal(end(CP, mode="pki_check_cn", allowed="dp-2"), end(DP))
        assert words == "the peer's common name (dp-1.example.com) is not one of cluster_allowed_common_names"

    def test_without_a_list_the_parent_domain_decides(self) -> None:
        meet(end(CP, mode="pki_check_cn"), end(DP))
        words = refusal(end(CP, mode="pki_check_cn"), end(CA.issue("dp.example.org")))
        assert "(dp.example.org) is not in the parent domain of cluster_cert's (example.com)" in words

    def test_no_parent_domain_is_nobodys(self) -> None:
        """Kong would compare two empty remainders, and take anybody with a name of one label."""
        words = refusal(end(CA.issue("cp"), mode="pki_check_cn"), end(CA.issue("dp"), name="cp"))
        assert "has no parent domain" in words

    @given(st.text(alphabet="ab.", max_size=8))
    def test_the_parent_domain_is_what_follows_the_first_label(self, name: str) -> None:
        assert parent_domain(name) == ".".join(name.split(".")[1:])


def settings_of(role: Role, directory: Path, **flags: str) -> Settings:
    paths = {
        "cluster_cert": str(directory / "link.crt"),
        "cluster_cert_key": str(directory / "link.key"),
        "cluster_ca_cert": str(directory / "ca.crt"),
    }
    return load_settings(
        role, environ={}, flags={"prefix": str(directory), "cluster_mtls": "pki", **paths, **flags}
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_text(CA.pem)
    write_pair(DP, tmp_path / "link.crt", tmp_path / "link.key")
    return tmp_path


class TestFiles:
    def test_the_name_asked_for_is_set_or_the_host_dialled(self, directory: Path) -> None:
        dialled = load_link_tls(settings_of("data_plane", directory))
        assert [dialled.name_at(host) for host in ("2001:db8::1", "cp-2")] == ["2001:db8::1", "cp-2"]
        named = settings_of("data_plane", directory, cluster_server_name="cp.example.com")
        assert load_link_tls(named).name_at("cp-2") == "cp.example.com"

    def test_our_own_certificate_is_checked_for_its_use(self, directory: Path) -> None:
        with pytest.raises(CertificateError, match="a control plane's certificate needs serverAuth"):
            load_link_tls(settings_of("control_plane", directory))

    def test_an_authority_is_a_ca(self, directory: Path) -> None:
        (directory / "ca.crt").write_text(CA.pem + DP.certificate_pem.decode())
        with pytest.raises(CertificateError, match=r"'CN=dp-1\.example\.com' is not that of a CA"):
            load_link_tls(settings_of("data_plane", directory))

    @pytest.mark.parametrize(
        "content", ["", "junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
    )
    def test_a_damaged_authority_is_named(self, directory: Path, content: str) -> None:
        (directory / "ca.crt").write_text(content)
        with pytest.raises(CertificateError, match=r"cluster_ca_cert .*ca\.crt: "):
            load_link_tls(settings_of("data_plane", directory))


class Watched:
    """Credentials of files, with a clock and the lines they would log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_s = 0.0
        self.told: list[str] = []
        self.complaints: list[str] = []
        self.credentials = FileCredentials(
            settings_of("data_plane", directory),
            tell=self.told.append,
            complain=self.complaints.append,
            clock=lambda: self.now_s,
        )

    def later(self) -> LinkTls:
        """What is current after two looks."""
        for _ in range(2):
            self.now_s += LOOK_EVERY_S
            found = self.credentials.current()
        return found

    def put(self, pair: KeyPair) -> None:
        write_pair(pair, self.directory / "link.crt", self.directory / "link.key")


class TestChangedFiles:
    def test_a_changed_pair_is_taken_for_connections_to_come(self, directory: Path) -> None:
        watched = Watched(directory)
        before = watched.credentials.current()
        newer = CA.issue("dp-1.example.com")
        watched.put(newer)
        assert watched.credentials.current() is before, "looked again at once"
        assert watched.later().pair.der == newer.der
        assert before.pair.der == DP.der
        assert len(watched.told) == 1
        assert "took the changed certificate" in watched.told[0]
        assert watched.later() is watched.later(), "made anew without a change"

    def test_half_a_change_waits_for_the_other_half(self, directory: Path) -> None:
        watched = Watched(directory)
        newer = CA.issue("dp-1.example.com")
        (directory / "link.crt").write_bytes(newer.certificate_pem)
        assert watched.later().pair.der == DP.der
        assert len(watched.complaints) == 1
        assert "the key does not belong to the certificate" in watched.complaints[0]
        watched.later()
        assert len(watched.complaints) == 1, "told once"
        (directory / "link.key").write_bytes(newer.key_pem)
        assert watched.later().pair.der == newer.der

    def test_files_that_are_gone_change_nothing(self, directory: Path) -> None:
        watched = Watched(directory)
        (directory / "link.crt").unlink()
        assert watched.later().pair.der == DP.der
        assert "no such file" in watched.complaints[0]

    def test_a_changed_authority_counts_too(self, directory: Path) -> None:
        watched = Watched(directory)
        (directory / "ca.crt").write_text(CA.pem + STRANGE.pem)
        assert len(watched.later().authorities) == 2

    def test_a_signal_reads_at_once(self, directory: Path) -> None:
        watched = Watched(directory)
        newer = CA.issue("dp-1.example.com")
        watched.put(newer)
        watched.credentials.read_again()
        assert watched.credentials.current().pair.der == newer.der
