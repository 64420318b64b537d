"""The authority: what it issues, for whom, and what it does not take for a request."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.errors import CertificateError
from fastgw.tls.authority import (
    CLOCK_TOLERANCE,
    CONTROL_PLANE_NAME,
    REQUEST_LIMIT_BYTES,
    Authority,
    NodeKey,
    check_name,
    node_id_of,
    public_key_der,
    read_request,
)
from fastgw.tls.cluster import common_name_of, names_of

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
AUTHORITY = Authority.make("c1", NOW)
KEY = NodeKey()


_VERSION_AT = KEY.request().index(b"\x02\x01\x00") + 2
"""Of a request: an INTEGER of one byte, zero."""


def request_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@given(st.uuids(version=4))
def test_a_data_planes_certificate_proves_its_id(node_id: uuid.UUID) -> None:
    issued = AUTHORITY.issue_data_plane(
        KEY.public_key, name="DP-1", node_id=str(node_id), lifetime=DAY, now=NOW
    ).certificate
    assert node_id_of(issued) == str(node_id)
    assert common_name_of(issued) == "dp-1"
    assert issued.not_valid_before_utc == NOW - CLOCK_TOLERANCE
    assert issued.not_valid_after_utc == NOW + DAY
    usage = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    issued.verify_directly_issued_by(AUTHORITY.certificate)


def test_a_control_planes_certificate_proves_no_id() -> None:
    issued = AUTHORITY.issue_control_plane(KEY.public_key, names=("cp",), lifetime=DAY, now=NOW).certificate
    assert node_id_of(issued) is None
    assert names_of(issued) == {CONTROL_PLANE_NAME, "cp"}


def test_nothing_outlives_its_authority() -> None:
    short = Authority.make("c1", NOW, days=2)
    issued = short.issue_control_plane(KEY.public_key, lifetime=30 * DAY, now=NOW)
    assert issued.not_after == short.certificate.not_valid_after_utc


def test_the_next_authority_is_vouched_for_by_the_one_before() -> None:
    following = Authority.make("c1", NOW)
    cross = AUTHORITY.cross_sign(following, NOW)
    cross.verify_directly_issued_by(AUTHORITY.certificate)
    issued = following.issue_control_plane(KEY.public_key, lifetime=DAY, now=NOW).certificate
    issued.verify_directly_issued_by(cross)


def test_a_request_gives_its_key() -> None:
    assert public_key_der(read_request(KEY.request())) == public_key_der(KEY.public_key)


@example(place=_VERSION_AT, change=1)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_request_that_was_changed_gives_no_other_key(place: int, change: int) -> None:
    """Or the same key: what is outside of the signed part has a few bits that say nothing."""
    data = bytearray(KEY.request())
    data[place % len(data)] ^= change
    try:
        key = read_request(bytes(data))
    except CertificateError:
        return
    assert public_key_der(key) == public_key_der(KEY.public_key)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (b"junk", "is no PKCS#10 request"),
        (bytes(REQUEST_LIMIT_BYTES + 1), "is longer than"),
        (request_of(ec.generate_private_key(ec.SECP384R1())), "of the curve P-256"),
        (request_of(rsa.generate_private_key(65537, 2048)), "of the curve P-256"),
    ],
    ids=["junk", "long", "p384", "rsa"],
)
def test_other_requests_are_refused(request_: bytes, words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        read_request(request_)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a-", "ä", "a" * 65, "a\nb", "*.example.com"])
def test_names_that_cannot_stand_in_a_certificate(name: str) -> None:
    with pytest.raises(CertificateError, match="is no name for a node"):
        check_name(name)


@pytest.mark.parametrize(("secret", "words"), [("", "must be the one"), ("other", "is another one")])
def test_an_encrypted_key_needs_its_secret(secret: str, words: str) -> None:
    key = AUTHORITY.key_pem("right")
    assert Authority.load(AUTHORITY.certificate_pem, key, "right").id == AUTHORITY.id
    with pytest.raises(CertificateError, match=words):
        Authority.load(AUTHORITY.certificate_pem, key, secret)
