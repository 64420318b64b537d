"""Certificates in the image: by the names they are shown for, by id for services, and those of authorities.

Contract. A section of an image holds every name in force with the id of its certificate, and pairs and
authorities by id. In an overlay pairs and authorities are those that changed since the base, the names are
all that there are. An overlay without the section changes none of it. `CertificateSet` reads a base and its
overlay as one.

Layout of the section: u32 length of the index, `CertificateIndex` in msgpack, then the records
(`CertificateRecord`, msgpack) that it points to. A worker decodes a record when a handshake or a service
first needs it. The section is made in `compile_certificates.py`.

Private keys stand here in clear: images are files of mode 0600, or memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from fastgw.errors import ImageError
from fastgw.tls.pair import KeyPair
from fastgw.tls.server import Named

KINDS: Final = ("ca_certificates", "certificates", "snis")
"""Kinds of entities that the section is made of."""


class CertificateIndex(msgspec.Struct, frozen=True):
    names: dict[str, str]
    """Name or wildcard, lower case, to the id of its certificate."""
    certificates: dict[str, tuple[str, int, int]]
    """By id: digest, and where its record begins and ends."""
    authorities: dict[str, str]
    """PEM text by id."""


class CertificateRecord(msgspec.Struct, frozen=True, array_like=True):
    pairs: tuple[KeyPair, ...]


class CertificateSection:
    """The section of one image; *data* stays mapped as long as this lives."""

    def __init__(self, data: memoryview) -> None:
        """Check and read the index.

        Raises:
            ImageError: it is damaged.
        """
        length = int.from_bytes(data[:4], "little")
        try:
            self.index: Final = msgspec.msgpack.decode(data[4 : 4 + length], type=CertificateIndex)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ImageError(f"its CERTIFICATES section cannot be read: {error}") from error
        self._records = data[4 + length :]

    def pairs_of(self, id_: str) -> tuple[KeyPair, ...]:
        """The pairs of a certificate that the index names, decoded afresh."""
        _, start, end = self.index.certificates[id_]
        try:
            return msgspec.msgpack.decode(self._records[start:end], type=CertificateRecord).pairs
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
