"""This data plane as a member of its cluster: its identity on disk, joined with a token, renewed in time.

    no identity ──token──> joins, again and again until it may ──> member ──two thirds of the lifetime──>
    renews

Contract. `PREFIX/pki/identity.json` (0600) holds key, certificate and whom to trust in one file, so that a
renewal replaces all of it or nothing. A renewal touches no link: the next connection presents the new
certificate. A renewal that fails is tried again, with a growing delay and jitter, and until then everything
goes on with what there is: a certificate that has expired keeps the data plane from its control plane, not
from serving.

The one complication: authorities rotate. The control plane names their state in every Pong (`trust`); when
that is not the state this identity was made in, it renews at once, and is told the authorities anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import random
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509

from fastgw.dp.dialling import preferred_order
from fastgw.dp.enrolment import Identity, at_any, join, renew
from fastgw.dp.own_files import replace_own_file
from fastgw.errors import CertificateError, FastgwError, SettingsError
from fastgw.obs.logs import Logger
from fastgw.settings import Settings
from fastgw.tls.authority import CLOCK_TOLERANCE, NodeKey
from fastgw.tls.cluster import LinkTls
from fastgw.wire.enrolment import Token
from fastgw.wire.pacing import next_delay
from fastgw.wire.signature import TrustedKeys

IDENTITY_FILE: Final = "pki/identity.json"
_LIMIT_BYTES: Final = 256 * 1024
_MOST_S: Final = 3600.0
_LEAST_S: Final = 0.2
_MANY: Final = 16
_EXPIRED_S: Final = 60.0
"""Then somebody has to set a clock, or to let the node join anew; until then it asks now and again."""
_SLICE_S: Final = 60.0
_TOLD_SPREAD_S: Final = 60.0
"""A fleet that hears of new authorities comes for them within such a time, not all at once."""

_decode: Final = msgspec.json.Decoder(Identity).decode


class Membership:
    """`Credentials` of the identity file.

    Args:
        draw: a number from 0 up to 1 for each delay.

    Raises:
        SettingsError: there is neither an identity nor a token, or the identity cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        node_id: str,
        hostname: str,
        log: Logger,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._path = settings.prefix / IDENTITY_FILE
        self._node_id = node_id
        self._control_planes = preferred_order(node_id, settings.cluster_control_plane)
        self._name = name_from(hostname)
        self._log = log
        self._draw = draw
        self._tls: LinkTls | None = None
        self._identity: Identity | None = None
        self._begins_s = self._ends_s = 0.0
        self._not_before_monotonic = 0.0
        self._told_trust = ""
        self._is_told = asyncio.Event()
        """Set when there is a reason to renew at once."""
        self._spread_s = 0.0
        identity = load_identity_file(self._path)
        if identity is not None:
            self._take(identity)
        elif not settings.cluster_token:
            raise SettingsError(
                f"cluster_mtls = {settings.cluster_mtls} needs a certificate, and {self._path} is not there: "
                "join with 'fastgw pki join', set cluster_token, or name cluster_cert, cluster_cert_key and "
                "cluster_ca_cert"
            )
        self._token = Token.parse(settings.cluster_token) if settings.cluster_token else None

    def current(self) -> LinkTls:
        assert self._tls is not None, "not joined"
        return self._tls

    @property
    def signing_keys(self) -> TrustedKeys:
        """Whose configurations are taken; none: signatures are not checked."""
        return TrustedKeys.of(self._identity.signing_keys if self._identity is not None else [])

    @property
    def not_after(self) -> dt.datetime | None:
        """Until when the certificate is valid; None before there is one."""
        return None if self._tls is None else self._tls.pair.not_after

    async def ready(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Return once there is a certificate that is valid, or none to be had without a token.

        Args:
            tell: takes why joining has not worked yet.
        """
        failures = 0
        key = NodeKey()  # one for all tries: a token is good for one key
        while self._token is not None and self._needs_joining():
            try:
                identity = await at_any(self._control_planes, partial(self._join, self._token, key))
                await asyncio.to_thread(store_identity_file, self._path, identity)
            except FastgwError as exc:
                delay_s = next_delay(failures, 0.0, self._draw)
                failures += 1
                self._log.warning("has not joined the cluster: %s; next try in %.1f s", exc, delay_s)
                tell(f"has not joined the cluster: {exc}")
                await asyncio.sleep(delay_s)
            else:
                self._take(identity)
                self._log.notice(
                    "joined the cluster %s with a certificate valid until %s UTC",
                    identity.cluster_id,
                    f"{self.current().pair.not_after:%Y-%m-%d %H:%M:%S}",
                )

    async def run(self) -> None:
        """Renew in time, until cancelled."""
        failures = 0
        while True:
            if failures == 0:
                await self._wait_until_due()
            try:
                await self.renew()
                failures = 0
                # A clock that runs ahead finds every certificate due at once.
                self._not_before_monotonic = time.monotonic() + self._retry_delay(_MANY)
            except FastgwError as exc:
                delay_s = self._retry_delay(failures)
                failures += 1
                self._log.warning(
                    "the certificate of the link (valid until %s UTC) is not renewed: %s; next try in %.1f s",
                    f"{self.current().pair.not_after:%Y-%m-%d %H:%M:%S}",
                    exc,
                    delay_s,
                )
                await asyncio.sleep(delay_s)

    async def renew(self) -> None:
        """Get a new certificate now. Raises FastgwError when it cannot be had; then the old one stays."""
        assert self._identity is not None
        believed = self._identity.signing_keys
        identity = await at_any(
            self._control_planes, lambda address: renew(address, self.current(), believed)
        )
        await asyncio.to_thread(store_identity_file, self._path, identity)
        self._take(identity)
        if identity.trust != self._told_trust:
            # Who issued it may have been a moment late: the next Pong tells.
            self._told_trust = ""
        self._log.notice(
            "renewed the certificate of the link, valid until %s UTC",
            f"{self.current().pair.not_after:%Y-%m-%d %H:%M:%S}",
        )

    def read_again(self) -> None:
        """Take the identity file anew, in case somebody has joined in our place, and renew it now."""
        self._spread_s = 0.0
        self._is_told.set()
        try:
            identity = load_identity_file(self._path)
            if identity is None or identity == self._identity:
                return
            self._take(identity)
        except SettingsError as exc:
            self._log.error("the identity stays as it was: %s", exc)
        else:
            self._log.notice("took the changed identity %s for new connections", self._path)

    def told(self, trust: str) -> None:
        """The control plane names the state of its authorities."""
        if self._identity is not None and trust and trust not in (self._identity.trust, self._told_trust):
            self._told_trust = trust
            self._spread_s = min(_TOLD_SPREAD_S, (self._ends_s - self._begins_s) / 20)
            self._is_told.set()

    async def _join(self, token: Token, key: NodeKey, address: str) -> Identity:
        return await join(address, token, node_id=self._node_id, name=self._name, key=key)

    def _needs_joining(self) -> bool:
        return self._tls is None or dt.datetime.now(dt.UTC) >= self._tls.pair.not_after

    def _take(self, identity: Identity) -> None:
        try:
            self._tls = identity.link_tls(self._settings.cluster_server_name)
        except CertificateError as exc:
            raise SettingsError(f"{self._path}: {exc}; remove it and join again") from None
        self._identity = identity
        certificate = x509.load_der_x509_certificate(self._tls.pair.der)
        self._begins_s = (certificate.not_valid_before_utc + CLOCK_TOLERANCE).timestamp()
        self._ends_s = certificate.not_valid_after_utc.timestamp()

    async def _wait_until_due(self) -> None:
        """Wait until the certificate is to be renewed, or the authorities have changed."""
        draw = self._draw()
        while not self._is_told.is_set():
            # In slices, since the clock may be set meanwhile.
            due_s = renewal_due_s(self._begins_s, self._ends_s, draw)
            left_s = max(due_s - time.time(), self._not_before_monotonic - time.monotonic())
            if left_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, _SLICE_S)):
                    await self._is_told.wait()
        self._is_told.clear()
        await asyncio.sleep(self._draw() * self._spread_s)

    def _retry_delay(self, failures: int) -> float:
        if time.time() >= self._ends_s:
            most_s = _EXPIRED_S
        else:
            most_s = min(_MOST_S, max(1.0, (self._ends_s - self._begins_s) / 30))
        return min(most_s, _LEAST_S * 2.0 ** min(failures, _MANY)) * (0.5 + self._draw() / 2)


def renewal_due_s(begins_s: float, ends_s: float, draw: float) -> float:
    """When a certificate is to be renewed: between 60 % and 70 % of its time, so that a fleet spreads.

    Wall time in Unix seconds, as both arguments; *draw* is from 0 up to 1.
    """
    return begins_s + (ends_s - begins_s) * (0.6 + 0.1 * draw)


def name_from(hostname: str) -> str:
    """A name that can stand in a certificate, from a host name that may be anything."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", hostname)[:64].strip("._-")
    return name or "data-plane"


def load_identity_file(path: Path) -> Identity | None:
    """Read an identity; None when there is none.

    Raises:
        SettingsError: it cannot be read, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be read: {os.strerror(exc.errno or 0).lower()}") from None
    try:
        return _decode(content)
    except msgspec.DecodeError:
        raise SettingsError(f"{path}: is damaged; remove it and join again") from None


def store_identity_file(path: Path, identity: Identity) -> None:
    """Replace the identity, whole or not at all; it survives a loss of power.

    Raises:
        SettingsError: it cannot be written.
    """
    try:
        replace_own_file(path, msgspec.json.encode(identity))
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be written: {os.strerror(exc.errno or 0).lower()}") from None
