"""Which certificate a name gets, and what contexts are made of."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import CertificateError
from fastgw.tls.keypair import KeyPair
from fastgw.tls.server import CertificateStore, Named, Policy, candidates, make_server_context
from tests.tls.authority import Authority

CA = Authority()
DEFAULT = CA.issue("default.example")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.b.example.com", ["a.b.example.com", "*.b.example.com", "a.b.example.*", "*"]),
        ("A.Example.COM.", ["a.example.com", "*.example.com", "a.example.*", "*"]),
        ("example.com", ["example.com", "example.*", "*"]),  # "*.com" would be for a whole domain
        ("localhost", ["localhost", "*"]),
        ("with_underscore.example.com", ["with_underscore.example.com", "*.example.com",
                                         "with_underscore.example.*", "*"]),
        ("127.0.0.1", []),
        ("::1", []),
        ("a.example:443", []),
        ("a..example", []),
        ("-a.example", []),
        ("a/b", []),
        ("", []),
        ("x" * 64 + "." + "y" * 200, []),
    ],
)  # fmt: skip
def test_candidates(name: str, found: list[str]) -> None:
    assert candidates(name) == found


@given(st.text(max_size=300))
def test_any_name_has_candidates_or_none(name: str) -> None:
    found = candidates(name)
    assert len(found) <= 4
    assert len(set(found)) == len(found)
    assert not found or found[-1] == "*"


class Certificates:
    """`NamedCertificates` of a plain mapping: name to (id, digest), id to pairs."""

    def __init__(self, names: dict[str, Named]) -> None:
        self.names = names
        self.loaded: list[str] = []

    def find(self, name: str) -> Named | None:
        return self.names.get(name)

    def digest_of(self, id_: str) -> str | None:
        return next((named.digest for named in self.names.values() if named.id == id_), None)

    def pairs_of(self, id_: str) -> list[KeyPair]:
        self.loaded.append(id_)
        return [CA.issue("x.example")]


def test_the_best_name_wins_and_no_name_gets_the_default() -> None:
    store = CertificateStore(Policy(), [DEFAULT])
    names = ("a.b.example", "*.b.example", "a.b.*", "*")
    store.serve(Certificates({name: Named(name, "1") for name in names}))
    default = store.select(None)
    by_name = {
        name: store.select(name) for name in ("a.b.example", "x.b.example", "a.b.org", "other.example")
    }
    assert len({id(context) for context in (default, *by_name.values())}) == 5
    assert store.select("127.0.0.1") is default
    assert store.select("X.b.example") is by_name["x.b.example"]  # contexts are made once


def test_contexts_outlive_a_configuration_as_long_as_their_certificate_is_the_same() -> None:
    store = CertificateStore(Policy(), [DEFAULT])
    store.serve(Certificates({"one.example": Named("1", "a"), "two.example": Named("2", "a")}))
    default, one, two = (store.select(name) for name in (None, "one.example", "two.example"))
    then = Certificates({"one.example": Named("1", "a"), "two.example": Named("2", "b")})
    store.serve(then)
    assert store.select("one.example") is one
    assert store.select("two.example") is not two
    assert then.loaded == ["2"]
    store.serve(Certificates({}))
    assert store.select("one.example") is default
    assert store._contexts == {}  # a key that is gone is gone from memory


def test_contexts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.tls.server.CONTEXTS_LIMIT", 2)
    store = CertificateStore(Policy(), [DEFAULT])
    names = Certificates({f"{place}.example": Named(str(place), "a") for place in range(3)})
    store.serve(names)
    for place in (0, 1, 0, 2, 0):
        store.select(f"{place}.example")
    assert names.loaded == ["0", "1", "2"]  # the one longest unused made room


def test_what_cannot_serve_changes_nothing() -> None:
    store = CertificateStore(Policy(), [DEFAULT])
    before = store.select(None)
    other = CA.issue("x.example")
    mixed = KeyPair(other.certificate_pem, DEFAULT.key_pem, other.der, other.not_after, ())
    with pytest.raises(CertificateError, match="OpenSSL refuses it"):
        store.replace_default([mixed])
    assert store.select(None) is before


def test_a_policy_becomes_a_context() -> None:
    context = make_server_context(Policy(minimum=ssl.TLSVersion.TLSv1_3, gives_tickets=False), [DEFAULT])
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.num_tickets == 0
    assert context.options & ssl.OP_NO_TICKET
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    names = {cipher["name"] for cipher in make_server_context(Policy(), [DEFAULT]).get_ciphers()}
    assert {name for name in names if not name.startswith("TLS_")} == {
        "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
    }  # fmt: skip


def test_unknown_ciphers_are_named() -> None:
    with pytest.raises(CertificateError, match="no cipher of 'ROT13' is known"):
        make_server_context(Policy(ciphers="ROT13"), [DEFAULT])
