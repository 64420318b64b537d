"""The side of the link that the settings name: key pair and authorities in files, read anew when they change.

Contract. The first reading raises what is wrong. Later ones never do: `current` looks at the files at most
once in `LOOK_EVERY_S`, `read_again` at once; files that cannot serve are told in the log, once, and
what was read before stays. Links that are open are not touched: a new certificate is presented from the next
connection on.

The one complication: a certificate and its key are two files, and whoever replaces them may be between the
two. They are read when they have been the same for two looks, so a half is seldom seen; one that is seen is
refused as a pair that does not match, and the next look reads again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography import x509

from fastgw.errors import CertificateError
from fastgw.settings import Settings, require_cluster_pair
from fastgw.tls.cluster import SERVER_NAME, LinkTls, check_usage
from fastgw.tls.keypair import load_authorities, load_key_pair

LOOK_EVERY_S: Final = 1.0


class _Stamp(NamedTuple):
    inode: int
    size: int
    mtime_ns: int


class FileCredentials:
    """`Credentials` of the settings.

    Args:
        tell: takes a line for the log about files that were changed; *complain* one about files that cannot
            serve.

    Raises:
        CertificateError: cluster_cert, cluster_cert_key or cluster_ca_cert cannot serve.
        SettingsError: what cluster_mtls needs is not set.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tell: Callable[[str], None],
        complain: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._tell = tell
        self._complain = complain
        self._clock = clock
        self._stamps = self._seen = self._look()
        self._looked_at_s = clock()
        # A data plane serves without a link; what its certificate lacks may be the clock's fault.
        self._tls = load_link_tls(settings, must_be_current=settings.role == "control_plane")
        for warning in self._tls.pair.warnings:
            complain(warning)

    def current(self) -> LinkTls:
        now_s = self._clock()
        if now_s - self._looked_at_s >= LOOK_EVERY_S:
            self._looked_at_s = now_s
            before, self._seen = self._seen, self._look()
            if self._seen == before and self._seen != self._stamps:
                self.read_again()
        return self._tls

    def read_again(self) -> None:
        """Read the files now, changed or not."""
        self._stamps = self._seen = self._look()
        try:
            tls = load_link_tls(self._settings)
        except CertificateError as error:
            self._complain(
                f"the link keeps the certificate it has, since the changed one cannot serve: {error}"
            )
            return
        if tls != self._tls:
            self._tls = tls
            self._tell(
                "took the changed certificate of the cluster link for new connections; it is valid until "
                f"{tls.pair.not_after:%Y-%m-%d %H:%M:%S} UTC"
            )

    def _look(self) -> tuple[_Stamp | None, ...]:
        settings = self._settings
        values = (settings.cluster_cert, settings.cluster_cert_key, settings.cluster_ca_cert)
        return tuple(_stamp_of(value) for value in values)


def load_link_tls(settings: Settings, *, must_be_current: bool = True) -> LinkTls:
    """Read and check what the settings name for this process's side of the link. Raises as above.

    Args:
        must_be_current: whether a certificate that has expired, or is not valid yet, cannot serve.
    """
    require_cluster_pair(settings)
    pair = load_key_pair(settings.cluster_cert, settings.cluster_cert_key, must_be_current=must_be_current)
    is_server = settings.role == "control_plane"
    if settings.cluster_mtls == "shared":
        tls = LinkTls.shared(pair)
    else:
        check_usage(x509.load_der_x509_certificate(pair.der), is_server=is_server, called="cluster_cert")
        tls = LinkTls(
            "pki_check_cn" if settings.cluster_mtls == "pki_check_cn" else "pki",
            pair,
            load_authorities(settings.cluster_ca_cert),
            SERVER_NAME if is_server else settings.cluster_server_name,
            settings.cluster_allowed_common_names,
        )
    # What OpenSSL has against them is to be known now.
    assert tls.server_context if is_server else tls.client_context
    return tls


def uses_files(settings: Settings) -> bool:
    """Whether this process's side of the link is in files, not in the hands of the built-in authority."""
    return settings.cluster_mtls == "shared" or bool(settings.cluster_cert)


def _stamp_of(value: str) -> _Stamp | None:
    """What tells that a file was changed; None for what is not the path of one."""
    if "-----BEGIN" in value or not value:
        return None
    try:
        found = os.stat(value)
    except (OSError, ValueError):
        return None
    return _Stamp(found.st_ino, found.st_size, found.st_mtime_ns)
