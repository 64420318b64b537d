"""Certificates in the image: by the names they are shown for, by id for services, and those of authorities.

Contract. A section of an image holds every name in force with the id of its certificate, and pairs and
authorities by id. In an overlay pairs and authorities are those that changed since the base, the names are
all that there are. An overlay without the section changes none of it. `CertificateSet` reads a base and its
overlay as one.

Layout of the section: u32 length of the index, `_Index` in msgpack, then the records (`_Record`, msgpack)
that it points to. A worker decodes a record when a handshake or a service first needs it.

Private keys stand here in clear: images are files of mode 0600, or memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import msgspec

from fastgw.errors import CertificateError, ImageError
from fastgw.model.pem_memory import openssl_fault
from fastgw.model.served import UNSERVED
from fastgw.tls.pair import KeyPair
from fastgw.tls.server import Named

KINDS: Final = ("ca_certificates", "certificates", "snis")
"""Kinds of entities that the section is made of."""
_DIGEST_DIGITS: Final = 32

AddFault = Callable[[str, str, str, object], None]
"""Takes entity, id, field and reason."""


class _Ref(msgspec.Struct):
    id: str


class _CertificateRow(msgspec.Struct):
    id: str
    cert: str
    key: str
    cert_alt: str | None = None
    key_alt: str | None = None


class _SniRow(msgspec.Struct):
    id: str
    name: str
    certificate: _Ref


class _AuthorityRow(msgspec.Struct):
    id: str
    cert: str


class _Index(msgspec.Struct, frozen=True):
    names: dict[str, str]
    """Name or wildcard, lower case, to the id of its certificate."""
    certificates: dict[str, tuple[str, int, int]]
    """By id: digest, and where its record begins and ends."""
    authorities: dict[str, str]
    """PEM text by id."""


class _Record(msgspec.Struct, frozen=True, array_like=True):
    pairs: tuple[KeyPair, ...]


def compile_certificates(
    by_kind: Mapping[str, Sequence[bytes]], exists: Callable[[str, str], bool], add_fault: AddFault
) -> bytes:
    """The section of some lines.

    Args:
        by_kind: lines of KINDS, sorted: all of `snis`, of the others those that the image is to hold.
        exists: whether the snapshot has an entity, by kind and id.
    """
    records = bytearray()
    index = _Index({}, {}, {})
    for row in _rows(by_kind, "certificates", _CertificateRow, add_fault):
        pairs = _pairs_of(row, add_fault)
        if pairs is None:
            continue
        start = len(records)
        records += msgspec.msgpack.encode(_Record(pairs))
        digest = sha256(records[start:]).hexdigest()[:_DIGEST_DIGITS]
        index.certificates[row.id] = (digest, start, len(records))
    for row in _rows(by_kind, "ca_certificates", _AuthorityRow, add_fault):
        index.authorities[row.id] = row.cert
    for row in _rows(by_kind, "snis", _SniRow, add_fault):
        if not exists("certificates", row.certificate.id):
            add_fault("snis", row.id, "certificate", f"there is no certificate {row.certificate.id}")
        # Of names that differ in case alone, the one with the smaller id: the same on every node.
        index.names.setdefault(row.name.lower().removesuffix("."), row.certificate.id)
    packed = msgspec.msgpack.encode(index)
    return len(packed).to_bytes(4, "little") + packed + records


def _rows(
    by_kind: Mapping[str, Sequence[bytes]], kind: str, row_type: type[Any], add_fault: AddFault
) -> Iterable[Any]:
    decode = msgspec.json.Decoder(row_type).decode
    for line in by_kind.get(kind, ()):
        _, id_, body = line.split(b" ", 2)
        try:
            row = decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            add_fault(kind, id_.decode(errors="replace"), "", error)
            continue
        yield row


def _pairs_of(row: _CertificateRow, add_fault: AddFault) -> tuple[KeyPair, ...] | None:
    faults = [
        (use.field, fault)
        for use in UNSERVED["certificates"]
        if (value := getattr(row, use.field)) is not None and (fault := use.refuse(value)) is not None
    ]
    if not faults:
        try:
            pairs = [_load(row.cert, row.key)]
            if row.cert_alt is not None:
                pairs.append(_load(row.cert_alt, row.key_alt or ""))
        except CertificateError as error:
            faults.append(("cert", str(error)))
        else:
            return tuple(pairs)
    for field, reason in faults:
        add_fault("certificates", row.id, field, reason)
    return None


@lru_cache(maxsize=4096)
def _load(certificate: str, key: str) -> KeyPair:
    """Check a pair as whoever presents it will; remembered, since most are the same in the next snapshot.

    Raises:
        CertificateError: it cannot be presented.
    """
    # Loaded here: a worker reads this module and is given what was checked.
    from fastgw.tls.keypair import parse_key_pair  # noqa: PLC0415 - a library for X.509 comes with it

    pair = parse_key_pair(certificate, key, certificate_name="cert", key_name="key")
    fault = openssl_fault(pair.certificate_pem, pair.key_pem)
    if fault is not None:
        raise CertificateError(f"OpenSSL refuses it: {fault}")
    return pair


class CertificateSection:
    """The section of one image; *data* stays mapped as long as this lives."""

    def __init__(self, data: memoryview) -> None:
        """Check and read the index.

        Raises:
            ImageError: it is damaged.
        """
        length = int.from_bytes(data[:4], "little")
        try:
            self.index: Final = msgspec.msgpack.decode(data[4 : 4 + length], type=_Index)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ImageError(f"its CERTIFICATES section cannot be read: {error}") from error
        self._records = data[4 + length :]

    def pairs_of(self, id_: str) -> tuple[KeyPair, ...]:
        """The pairs of a certificate that the index names, decoded afresh."""
        _, start, end = self.index.certificates[id_]
        try:
            return msgspec.msgpack.decode(self._records[start:end], type=_Record).pairs
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ImageError(f"its certificate {id_} cannot be read: {error}") from error


class CertificateSet:
    """The certificates of a generation, as `tls.server.NamedCertificates`; and what services name by id."""

    def __init__(self, *newest_first: CertificateSection | None) -> None:
        self._sections = [section for section in newest_first if section is not None]
        self._names: Mapping[str, str] = self._sections[0].index.names if self._sections else {}
        #: A base may still hold what its overlay has no name for any more.
        self._shown = frozenset(self._names.values())

    def find(self, name: str) -> Named | None:
        id_ = self._names.get(name)
        digest = None if id_ is None else self.digest_of(id_)
        return None if id_ is None or digest is None else Named(id_, digest)

    def digest_of(self, id_: str) -> str | None:
        for section in self._sections if id_ in self._shown else ():
            if id_ in section.index.certificates:
                return section.index.certificates[id_][0]
        return None

    def pairs_of(self, id_: str) -> tuple[KeyPair, ...]:
        """The pairs of the certificate with this id.

        Raises:
            ImageError: there is none.
        """
        for section in self._sections:
            if id_ in section.index.certificates:
                return section.pairs_of(id_)
        raise ImageError(f"it holds no certificate {id_}")

    def authority(self, id_: str) -> str:
        """The PEM text of the authority's certificate with this id.

        Raises:
            ImageError: there is none.
        """
        for section in self._sections:
            if id_ in section.index.authorities:
                return section.index.authorities[id_]
        raise ImageError(f"it holds no certificate {id_} of an authority")
