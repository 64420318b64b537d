"""Signatures of configurations: whatever is changed is noticed, and only endorsed keys come to be believed."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import SignatureError
from fastgw.wire.signature import (
    Signature,
    SignedKey,
    SigningKey,
    TrustedKeys,
    key_id_of,
    parse_public,
    show_public,
)

OLD, NEW, STRANGE = (SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2, 3))
CLUSTER, DIGEST = "c1", "ab" * 32
BELIEVED = TrustedKeys.of([OLD.public])


def test_what_a_believed_key_signed_is_taken() -> None:
    BELIEVED.verify(CLUSTER, 7, DIGEST, [OLD.sign(CLUSTER, 7, DIGEST)])
    BELIEVED.verify(CLUSTER, 7, DIGEST, [STRANGE.sign(CLUSTER, 7, DIGEST), OLD.sign(CLUSTER, 7, DIGEST)])


def test_without_a_signature_nothing_is_taken() -> None:
    with pytest.raises(SignatureError, match="is not signed, and this data plane takes only signed ones"):
        BELIEVED.verify(CLUSTER, 7, DIGEST, [])


def test_a_strangers_signature_names_both_sides_keys() -> None:
    with pytest.raises(SignatureError, match=rf"signed by {STRANGE.id}, .* believes {OLD.id}"):
        BELIEVED.verify(CLUSTER, 7, DIGEST, [STRANGE.sign(CLUSTER, 7, DIGEST)])


@given(
    cluster=st.text(max_size=40), version=st.integers(0, 2**53), digest=st.binary(min_size=32, max_size=32)
)
def test_a_signature_is_of_one_cluster_one_version_and_one_digest(
    cluster: str, version: int, digest: bytes
) -> None:
    signature = OLD.sign(CLUSTER, 7, DIGEST)
    if (cluster, version, digest.hex()) == (CLUSTER, 7, DIGEST):
        return
    with pytest.raises(SignatureError, match="is not of version"):
        BELIEVED.verify(cluster, version, digest.hex(), [signature])


@given(st.integers(0, 511))
def test_every_bit_of_a_signature_counts(bit: int) -> None:
    value = bytearray(OLD.sign(CLUSTER, 7, DIGEST).value)
    value[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        BELIEVED.verify(CLUSTER, 7, DIGEST, [Signature(OLD.id, bytes(value))])


def test_a_key_under_anothers_id_does_not_pass() -> None:
    forged = Signature(OLD.id, STRANGE.sign(CLUSTER, 7, DIGEST).value)
    with pytest.raises(SignatureError):
        BELIEVED.verify(CLUSTER, 7, DIGEST, [forged])


class TestChangingKeys:
    def test_an_endorsed_key_is_believed_and_the_old_one_goes_when_it_is_not_offered(self) -> None:
        new = SignedKey(NEW.public, OLD.endorse(CLUSTER, NEW.public))
        both = BELIEVED.admit(CLUSTER, [SignedKey(OLD.public), new])
        assert both.ids == sorted([OLD.id, NEW.id])
        assert both.admit(CLUSTER, [new]).ids == [NEW.id]
        assert BELIEVED.admit(CLUSTER, [new]).ids == [NEW.id]

    def test_a_chain_of_endorsements_holds_in_any_order(self) -> None:
        newest = SigningKey(Ed25519PrivateKey.generate())
        chain = [
            SignedKey(newest.public, NEW.endorse(CLUSTER, newest.public)),
            SignedKey(NEW.public, OLD.endorse(CLUSTER, NEW.public)),
        ]
        assert BELIEVED.admit(CLUSTER, chain).ids == sorted([NEW.id, newest.id])

    @pytest.mark.parametrize(
        "offered",
        [
            SignedKey(NEW.public),
            SignedKey(NEW.public, STRANGE.endorse(CLUSTER, NEW.public)),
            SignedKey(NEW.public, OLD.endorse("another cluster", NEW.public)),
            SignedKey(NEW.public, OLD.endorse(CLUSTER, STRANGE.public)),
            SignedKey(NEW.public, Signature(OLD.id, OLD.sign(CLUSTER, 7, DIGEST).value)),
        ],
    )
    def test_who_has_no_believed_key_brings_in_none_and_takes_none_away(self, offered: SignedKey) -> None:
        assert BELIEVED.admit(CLUSTER, [offered]).ids == [OLD.id]
        assert BELIEVED.admit(CLUSTER, [SignedKey(OLD.public), offered]).ids == [OLD.id]

    def test_an_empty_offer_changes_nothing(self) -> None:
        assert BELIEVED.admit(CLUSTER, []).ids == [OLD.id]


def test_keys_as_text() -> None:
    assert parse_public(show_public(OLD.public)) == OLD.public
    assert key_id_of(OLD.public) == OLD.id


@given(st.text(max_size=80))
def test_any_other_text_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match="is no key of"):
        parse_public(text)
