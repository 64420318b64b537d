"""Makes the section of certificates in an image (`certificates.py` says what is in it, and reads it).

Apart from the reading, since a library for X.509 and the table of entities come with the making, and workers
only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import msgspec

from fastgw.errors import CertificateError
from fastgw.model.pem_memory import openssl_fault
from fastgw.model.served import UNSERVED
from fastgw.routing.certificates import CertificateIndex, CertificateRecord
from fastgw.tls.keypair import parse_key_pair
from fastgw.tls.pair import KeyPair

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


def compile_certificates(
    by_kind: Mapping[str, Sequence[bytes]], exists: Callable[[str, str], bool], add_fault: AddFault
) -> bytes:
    """The section of some lines.

    Args:
        by_kind: lines of KINDS, sorted: all of `snis`, of the others those that the image is to hold.
        exists: whether the snapshot has an entity, by kind and id.
    """
    records = bytearray()
    index = CertificateIndex({}, {}, {})
    for row in _rows(by_kind, "certificates", _CertificateRow, add_fault):
        pairs = _pairs_of(row, add_fault)
        if pairs is None:
            continue
        start = len(records)
        records += msgspec.msgpack.encode(CertificateRecord(pairs))
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
    pair = parse_key_pair(certificate, key, certificate_name="cert", key_name="key")
    fault = openssl_fault(pair.certificate_pem, pair.key_pem)
    if fault is not None:
        raise CertificateError(f"OpenSSL refuses it: {fault}")
    return pair
