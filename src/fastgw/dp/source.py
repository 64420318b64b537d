"""Where a data plane's configurations come from: the link to a control plane, or a declarative file.

Contract. `begin` brings what must be served from the start (a file's content; nothing of a link), before any
port is open, or when another process serves meanwhile; `run` brings what comes later. In between and at any
time the source can be paused: nothing is applied then, the link is closed, and whoever takes over may have
one of its own; `resume` takes it up where it was.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastgw.dp.belief import keys_of_settings
from fastgw.dp.membership import Membership
from fastgw.dp.supervisor import Supervisor
from fastgw.dp.sync import IncomingSnapshot, Sync, SyncStatus
from fastgw.errors import SettingsError
from fastgw.obs import logs
from fastgw.settings import Settings
from fastgw.tls.cluster_files import FileCredentials, uses_files
from fastgw.wire.signature import TrustedKeys

if TYPE_CHECKING:
    from fastgw.dp.declared import DeclaredSource


class Source:
    """The one source of a data plane."""

    def __init__(self, settings: Settings, supervisor: Supervisor) -> None:
        """Make it; nothing is read or dialled yet.

        Raises:
            CertificateError: the key pair for the link cannot serve.
            SettingsError: cluster_signing_keys names what is no key.
        """
        self._settings = settings
        self._supervisor = supervisor
        self._pinned_keys = TrustedKeys({})
        self._link: Sync | None = None
        self._declared: DeclaredSource | None = None
        self._first: IncomingSnapshot | None = None
        self._credentials: FileCredentials | Membership | None = None
        self._membership: Membership | None = None
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._running: asyncio.Task[None] | None = None
        if settings.declarative_config is not None:
            from fastgw.dp.declared import DeclaredSource  # noqa: PLC0415 - most have none, and start faster

            self._declared = DeclaredSource(
                settings.declarative_config, supervisor.apply, flavor=settings.router_flavor
            )
            return
        self._pinned_keys = keys_of_settings(settings)
        supervisor.belief.keys = self._signing_keys
        log, node = logs.get_logger("link"), supervisor.node
        credentials: FileCredentials | Membership
        if uses_files(settings):
            credentials = FileCredentials(settings, tell=log.notice, complain=log.warning)
        else:
            credentials = self._membership = Membership(
                settings, node_id=node.id, hostname=node.hostname, log=log
            )
        self._credentials = credentials
        self._link = Sync(
            settings,
            credentials,
            node=node,
            apply=supervisor.apply,
            applied=supervisor.state,
            log=log,
            pledge=supervisor.pledge,
            trust_told=self._membership.told if self._membership is not None else lambda _: None,
            answered=supervisor.answered,
            signed_again=supervisor.applier.keep_signatures,
        )

    @property
    def is_file(self) -> bool:
        return self._declared is not None

    async def read(self) -> None:
        """Read the file, if that is what it is.

        Raises:
            DeclarativeError: with all faults of the file.
        """
        if self._declared is not None:
            self._first = await self._declared.read()

    async def begin(self) -> None:
        """Apply what was read.

        Raises:
            DeclarativeError: it is refused: nothing could be served.
            OSError: the compile process does not start.
        """
        if self._declared is not None and self._first is not None:
            await self._declared.begin(self._first)

    async def run(self) -> None:
        """Apply what comes, until cancelled."""
        while True:
            await self._goes_on.wait()
            self._running = asyncio.create_task(self._apply_all())
            try:
                await asyncio.wait((self._running,))
                if not self._running.cancelled():  # else it was paused
                    self._running.result()
            finally:
                self._running.cancel()
                await asyncio.gather(self._running, return_exceptions=True)

    async def pause(self) -> None:
        """Have nothing applied from now on; return when what was being applied is."""
        self._goes_on.clear()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._supervisor.applier.finish()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._goes_on.set()

    async def read_again(self) -> None:
        """Read the file, or the key pair for the link, anew; return when that is applied or refused."""
        if self._declared is not None:
            await self._declared.read_again()
        if self._credentials is not None:
            self._credentials.read_again()
            try:
                self._pinned_keys = keys_of_settings(self._settings)
            except SettingsError as error:
                logs.get_logger("link").error("the signing keys stay as they were: %s", error)

    def certificate_expires_s(self) -> float | None:
        """Unix seconds until which what the next link presents is valid; None without a link."""
        if self._membership is not None:
            until = self._membership.not_after
        else:
            until = None if self._credentials is None else self._credentials.current().pair.not_after
        return None if until is None else until.timestamp()

    def link_status(self) -> SyncStatus | None:
        """The state of the link; None without one."""
        return None if self._link is None else self._link.status

    def _signing_keys(self) -> TrustedKeys:
        """Whose configurations are taken: those of the settings, else those told when the node joined."""
        if self._pinned_keys or self._membership is None:
            return self._pinned_keys
        return self._membership.signing_keys

    async def _apply_all(self) -> None:
        if self._link is not None and self._membership is not None:
            await self._membership.ready(self._link.status.tell_error)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._membership.run(), name="membership")
                both.create_task(self._link.run(), name="link")
        elif self._link is not None:
            await self._link.run()
        elif self._declared is not None:
            await self._declared.run()
