"""Signatures of configurations: what is signed, by which keys, and whom a data plane believes.

    signed        "fastgw snapshot 1" · cluster id · version · digest
    endorsement   "fastgw signing key 1" · cluster id · the new key, signed by a key that is believed already

Contract. Ed25519. The digest is that of the whole configuration, so a signature stands for every byte of it,
however it travels: as a delta it is that of the result. `TrustedKeys.verify` wants one valid signature of a
key that is believed; who signs does so with every key that is not retired, so that keys change with an
overlap.

The one complication is how a new key comes to be believed. It is endorsed by an older one: whoever has the
TLS keys of a control plane but no signing key can neither sign a configuration nor bring in a key that may.

Source: RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from fastgw.errors import SignatureError

SIGNATURES_LIMIT: Final = 4
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_PREFIX: Final = "ed25519:"
_SNAPSHOT: Final = b"fastgw snapshot 1\0"
_KEY: Final = b"fastgw signing key 1\0"

KeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
PublicKey = Annotated[bytes, Meta(min_length=_KEY_BYTES, max_length=_KEY_BYTES)]
Value = Annotated[bytes, Meta(min_length=_SIGNATURE_BYTES, max_length=_SIGNATURE_BYTES)]


class Signature(msgspec.Struct, frozen=True):
    key_id: KeyId
    value: Value


class SignedKey(msgspec.Struct, frozen=True):
    """A public key, and what speaks for it."""

    public: PublicKey
    endorsement: Signature | None = None
    """Of an older key; none for the first."""


Signatures = Annotated[tuple[Signature, ...], Meta(max_length=SIGNATURES_LIMIT)]


class SigningKey:
    """A key that signs."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public: Final = key.public_key().public_bytes_raw()
        self.id: Final = key_id_of(self.public)

    def sign(self, cluster_id: str, version: int, digest: str) -> Signature:
        """Sign a configuration."""
        return Signature(self.id, self._key.sign(_snapshot_bytes(cluster_id, version, digest)))

    def endorse(self, cluster_id: str, public: bytes) -> Signature:
        """Speak for another key."""
        return Signature(self.id, self._key.sign(_key_bytes(cluster_id, public)))


class TrustedKeys:
    """The keys that a data plane believes, by id. Immutable."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def of(cls, publics: Iterable[bytes]) -> Self:
        return cls({key_id_of(public): Ed25519PublicKey.from_public_bytes(public) for public in publics})

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    @property
    def ids(self) -> list[str]:
        return sorted(self._keys)

    def verify(self, cluster_id: str, version: int, digest: str, signatures: Sequence[Signature]) -> None:
        """Insist that a believed key signed this configuration.

        Raises:
            SignatureError: none did; says which check failed.
        """
        if not signatures:
            raise SignatureError(
                "the configuration is not signed, and this data plane takes only signed ones"
            )
        known = [one for one in signatures if one.key_id in self._keys]
        if not known:
            raise SignatureError(
                f"the configuration is signed by {_ids(signatures)}, and this data plane believes "
                f"{', '.join(self.ids)}"
            )
        message = _snapshot_bytes(cluster_id, version, digest)
        for one in known:
            try:
                self._keys[one.key_id].verify(one.value, message)
            except InvalidSignature:
                continue
            return
        raise SignatureError(
            f"the signature by {_ids(known)} is not of version {version} with the digest {digest[:32]} "
            "of this cluster"
        )

    def admit(self, cluster_id: str, offered: Sequence[SignedKey]) -> TrustedKeys:
        """Believe those of *offered* that a believed key endorses, and no longer those that are not offered.

        What is offered is the control plane's list; where it would leave none that is believed now or
        endorsed, all stays as it is.
        """
        believed = dict(self._keys)
        left = list(offered)
        while True:
            fitting = [one for one in left if self._speaks_for(believed, cluster_id, one)]
            if not fitting:
                break
            left = [one for one in left if one not in fitting]
            for one in fitting:
                believed[key_id_of(one.public)] = Ed25519PublicKey.from_public_bytes(one.public)
        wanted = {key_id_of(one.public) for one in offered} & believed.keys()
        return TrustedKeys({id_: believed[id_] for id_ in wanted}) if wanted else self

    def publics(self) -> list[bytes]:
        return [key.public_bytes_raw() for _, key in sorted(self._keys.items())]

    @staticmethod
    def _speaks_for(believed: Mapping[str, Ed25519PublicKey], cluster_id: str, one: SignedKey) -> bool:
        endorsement = one.endorsement
        if key_id_of(one.public) in believed or endorsement is None or endorsement.key_id not in believed:
            return False
        try:
            believed[endorsement.key_id].verify(endorsement.value, _key_bytes(cluster_id, one.public))
        except InvalidSignature:
            return False
        return True


def key_id_of(public: bytes) -> str:
    """The first 16 hex digits of a public key's SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def show_public(public: bytes) -> str:
    """A public key as text, as `cluster_signing_keys` takes it."""
    return _PREFIX + base64.b64encode(public).decode()


def parse_public(text: str) -> bytes:
    """Read a public key's text.

    Raises:
        ValueError: it is none.
    """
    try:
        public = base64.b64decode(text.strip().removeprefix(_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        public = b""
    if not text.strip().startswith(_PREFIX) or len(public) != _KEY_BYTES:
        raise ValueError(
            f"{text.strip()[:80]!r} is no key of 'fastgw pki signing list': 'ed25519:' and 44 characters"
        )
    return public


def _ids(signatures: Iterable[Signature]) -> str:
    return ", ".join(one.key_id for one in signatures)


def _snapshot_bytes(cluster_id: str, version: int, digest: str) -> bytes:
    return b"".join(
        (_SNAPSHOT, cluster_id.encode(), b"\0", version.to_bytes(8, "big"), bytes.fromhex(digest))
    )


def _key_bytes(cluster_id: str, public: bytes) -> bytes:
    return b"".join((_KEY, cluster_id.encode(), b"\0", public))
