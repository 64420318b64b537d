"""One container: an image's file system, namespaces of its own, an address on the test's bridge.

A fraction of what an engine does, and nothing in between: `unshare` makes the namespaces, `enter.py` lays out the
file system and gives up privileges, the image's entrypoint becomes process 1. All of it ends with the process that
started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.image.base import Image, ImageTestFailed, run
from tests.image.composition import Service
from tests.waiting import wait_until

_ENTER: Final = Path(__file__).with_name("enter.py")
_BRIDGE: Final = "fgw0"
PREFIX: Final = "10.89.0"
_START_S: Final = 20.0


def make_bridge() -> None:
    """Make the switch that all containers hang on, in the network namespace of this process."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", _BRIDGE, "type", "bridge")
    run("ip", "addr", "add", f"{PREFIX}.1/24", "dev", _BRIDGE)
    run("ip", "link", "set", _BRIDGE, "up")


class Container:
    """A container of a service; made, started once, and removed."""

    def __init__(
        self,
        service: Service,
        image: Image,
        *,
        number: int,
        hosts: Mapping[str, str],
        volumes: Path,
        state: Path,
        command: Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        """Make its file system.

        Args:
            number: the last byte of its address.
            hosts: addresses of all services by name.
            volumes: the directory of named volumes.
            command: in place of the service's.
            name: in place of the service's.
        """
        self.name: Final = name or service.name
        self.service: Final = service
        self.image: Final = image
        self.address: Final = f"{PREFIX}.{number}"
        self.log_path: Final = state / f"{self.name}.{time.monotonic_ns()}.log"
        self._number = number
        self._hosts = hosts
        self._volumes = volumes
        self._command = [*image.entrypoint, *(command or service.command or image.command)]
        self._process: subprocess.Popen[str] | None = None
        self.pid = 0
        """Of its process 1, as seen from outside."""
        self._made = run("buildah", "from", image.name).strip()
        self.root: Final = Path(run("buildah", "mount", self._made).strip())
        self.uid, self.gid = self._find_user(service.user or image.user)
        self.environment: Final = {
            **image.environment,
            **service.environment,
            "HOSTNAME": self.name,
            "HOME": "/",
        }

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self) -> None:
        """Start it; returns when its command runs."""
        with self.log_path.open("wb") as log:
            process = subprocess.Popen(
                [
                    "unshare", "--net", "--pid", "--mount", "--ipc", "--uts", "--fork", "--kill-child=SIGKILL", "--",
                    sys.executable, "-I", str(_ENTER),
                ],
                stdin=subprocess.PIPE, stdout=log, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
        self._process = process
        assert process.stdin is not None
        print(json.dumps(self._spec()), file=process.stdin, flush=True)
        self.pid = wait_until(self._find_child, _START_S, f"{self.name}: the first process")
        self._plug_in(process.pid)
        print(file=process.stdin, flush=True)
        process.stdin.close()

    def exec(self, command: Sequence[str], *, deadline_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as the container's user; no shell in between."""
        return subprocess.run(
            [
                "nsenter", "-t", str(self.pid), "-n", "-p", "-m", "-i", "-u",
                f"--root=/proc/{self.pid}/root", f"--wd=/proc/{self.pid}/cwd",
                "-S", str(self.uid), "-G", str(self.gid), "--", *command,
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def is_healthy(self) -> bool:
        """Ask it as an engine would."""
        test = self.service.health or self.image.health
        if not self.is_running:
            raise ImageTestFailed(f"{self.name} ended before it was healthy:\n{self.log}")
        return self.exec(test).returncode == 0

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its process 1."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, deadline_s: float) -> int:
        """Wait for its end; return the exit code."""
        assert self._process is not None
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise ImageTestFailed(f"{self.name} still runs after {deadline_s} s:\n{self.log}") from None

    def stop(self) -> float:
        """Stop it as an engine does; return the seconds that it took, with exit code 0 and no SIGKILL."""
        begun = time.monotonic()
        self.send(signal.Signals[self.image.stop_signal])
        code = self.wait(self.service.stop_grace_s)
        if code:
            raise ImageTestFailed(f"{self.name} ended with {code}:\n{self.log}")
        return time.monotonic() - begun

    def remove(self) -> None:
        """End it if it runs, and take its file system away."""
        if self.is_running:
            self.send(signal.SIGKILL)
            self.wait(_START_S)
        run("buildah", "umount", self._made)
        run("buildah", "rm", self._made)

    def processes(self) -> dict[int, str]:
        """All its processes, by their number inside, with the state that /proc tells (Z is a zombie)."""
        found = {}
        for entry in Path(f"/proc/{self.pid}/root/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(") ")[2][:1]
        return found

    def _spec(self) -> dict[str, object]:
        hosts = "".join(f"{address}\t{name}\n" for name, address in self._hosts.items())
        binds: list[tuple[str, str, bool]] = [
            (str(self._volume(mount.source, mount.target)), mount.target, mount.read_only)
            for mount in self.service.volumes
        ]
        binds += [
            (str(path.resolve()), f"/run/secrets/{name}", True) for name, path in self.service.secrets.items()
        ]
        return {
            "root": str(self.root),
            "read_only": self.service.read_only,
            "tmpfs": list(self.service.tmpfs),
            "binds": binds,
            "hosts": f"127.0.0.1\tlocalhost\n{hosts}",
            "resolv.conf": "nameserver 127.0.0.1\n",
            "hostname": f"{self.name}\n",
            "directory": self.image.directory,
            "uid": self.uid,
            "gid": self.gid,
            "environment": self.environment,
            "command": self._command,
        }

    def _volume(self, name: str, target: str) -> Path:
        """A named volume; a new one takes owner and mode of the image's directory that it hides."""
        path = self._volumes / name
        if not path.exists():
            path.mkdir(parents=True)
            hidden = self.root / target.lstrip("/")
            if hidden.is_dir():
                status = hidden.stat()
                os.chown(path, status.st_uid, status.st_gid)
                path.chmod(status.st_mode & 0o7777)
        return path

    def _find_user(self, user: str) -> tuple[int, int]:
        name, _, group = user.partition(":")
        for line in (self.root / "etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if name in (fields[0], fields[2]):
                return int(fields[2]), int(group or fields[3])
        return int(name), int(group or 0)

    def _find_child(self) -> int:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ImageTestFailed(f"{self.name} did not start:\n{self.log}")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _plug_in(self, pid: int) -> None:
        inside = ("nsenter", "-t", str(self.pid), "-n", "ip")
        ours, theirs = f"fgw-{self._number}a", f"fgw-{self._number}b"
        # A name may still be held by a container that just ended; its namespace goes a moment later.
        subprocess.run(["ip", "link", "del", ours], capture_output=True, check=False)
        run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs)
        run("ip", "link", "set", theirs, "netns", str(self.pid))
        run("ip", "link", "set", ours, "master", _BRIDGE, "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "set", theirs, "name", "eth0")
        run(*inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
