"""Which certificate a name gets, and what contexts are made of."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import CertificateError
from fastgw.tls.keypair import KeyPair
from fastgw.tls.server import CertificateStore, Policy, candidates, make_server_context
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


def test_the_best_name_wins_and_no_name_gets_the_default() -> None:
    pairs = {name: [CA.issue("x.example")] for name in ("a.b.example", "*.b.example", "a.b.*", "*")}
    store = CertificateStore(Policy(), [DEFAULT])
    store.replace([DEFAULT], pairs)
    default = store.select(None)
    by_name = {
        name: store.select(name) for name in ("a.b.example", "x.b.example", "a.b.org", "other.example")
    }
    assert len({id(context) for context in (default, *by_name.values())}) == 5
    assert store.select("127.0.0.1") is default
    assert store.select("X.b.example") is by_name["x.b.example"]  # contexts are made once


def test_what_cannot_serve_changes_nothing() -> None:
    store = CertificateStore(Policy(), [DEFAULT])
    before = store.select(None)
    other = CA.issue("x.example")
    mixed = KeyPair(other.certificate_pem, DEFAULT.key_pem, other.der, other.not_after, ())
    with pytest.raises(CertificateError, match="OpenSSL refuses it"):
        store.replace([mixed], {})
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
