"""Where a quickstart has everything: ports, its state directory, and the settings of both processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastgw.errors import SettingsError
from fastgw.settings import Listen, default_prefix

HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything about one quickstart that is known before anything is started."""

    state: Path
    """Holds what this command writes, and nothing else: --fresh removes it whole."""
    proxy: Listen
    admin: Listen
    cluster: Listen
    status: Listen
    conf: Path | None
    sets: Mapping[str, str]

    @classmethod
    def make(
        cls, sets: Mapping[str, str], *, conf: Path | None, proxy: int, admin: int, cluster: int, status: int
    ) -> Layout:
        """Lay everything out.

        Raises:
            SettingsError: two ports are the same, or `--set` names what the options decide.
        """
        prefix = Path(sets.get("prefix") or default_prefix()).expanduser().absolute()
        layout = cls(
            state=prefix / "quickstart",
            proxy=Listen(HOST, proxy),
            admin=Listen(HOST, admin),
            cluster=Listen(HOST, cluster),
            status=Listen(HOST, status),
            conf=conf,
            sets={name: value for name, value in sets.items() if name != "prefix"},
        )
        if len({proxy, admin, cluster, status}) < 4:
            raise SettingsError("two of the ports are the same: give each of the four one of its own")
        decided = sorted(set(layout.sets) & (set(layout._cp()) | set(layout._dp())))
        if decided:
            raise SettingsError(
                f"quickstart decides {', '.join(decided)} itself: use its options, "
                "or run 'fastgw cp' and 'fastgw dp'"
            )
        return layout

    @property
    def doors(self) -> tuple[tuple[str, Listen, str], ...]:
        """What listens: name, address, and the option that moves it."""
        return (
            ("proxy", self.proxy, "--proxy-port"),
            ("Admin API", self.admin, "--admin-port"),
            ("cluster", self.cluster, "--cluster-port"),
            ("status", self.status, "--status-port"),
        )

    @property
    def certificate(self) -> Path:
        return self.state / "cluster.crt"

    @property
    def key(self) -> Path:
        return self.state / "cluster.key"

    def arguments(self, command: str) -> list[str]:
        """Make the arguments of the child that runs `fastgw cp` or `fastgw dp`."""
        settings = {**self.sets, **(self._cp() if command == "cp" else self._dp())}
        # The null device keeps the machine's own fastgw.conf out.
        arguments = [command, "--conf", str(self.conf or os.devnull)]
        for name, value in settings.items():
            arguments += ["--set", f"{name}={value}"]
        return arguments

    def _cp(self) -> dict[str, str]:
        return {
            "prefix": str(self.state / "cp"),
            "database": "sqlite",
            "admin_listen": str(self.admin),
            "cluster_listen": str(self.cluster),
            "cluster_cert": str(self.certificate),
            "cluster_cert_key": str(self.key),
            "admin_access_log": "/dev/stdout",
            "admin_error_log": "/dev/stderr",
        }

    def _dp(self) -> dict[str, str]:
        return {
            "prefix": str(self.state / "dp"),
            "proxy_listen": f"{self.proxy} reuseport",
            "status_listen": str(self.status),
            "cluster_control_plane": str(self.cluster),
            "cluster_cert": str(self.certificate),
            "cluster_cert_key": str(self.key),
            "proxy_access_log": "/dev/stdout",
            "proxy_error_log": "/dev/stderr",
        }


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Take the variables that are settings out: they are meant for real nodes, not for a quickstart."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("FASTGW_", "KONG_"))}
    return {**kept, "PYTHONUNBUFFERED": "1"}
