"""A real PostgreSQL for tests, by the distribution's binaries: a server per session, a database per test.

The server is a child of the test process: own directory, own socket, a port of its own on loopback, without
fsync, since nobody needs its data tomorrow. As root it runs as another user, as it insists on. `setpriv`
makes the kernel stop it when the test process dies, however that happens. With pytest-xdist each worker has
its own: a server is up within a second, which is less than what sharing one would cost in locks.

Fixtures: `pg_server`, `pg_database` (empty), and `PgServer` for tests that stop and start theirs.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.waiting import free_port, wait_until

HOST: Final = "127.0.0.1"
USER: Final = "kong"
PASSWORD: Final = "correct horse battery"
_START_S: Final = 30.0
_STOP_S: Final = 20.0
_ATTEMPTS: Final = 5
_MEMORY: Final = Path("/dev/shm")
_ROOM_BYTES: Final = 1 << 30
_INSTALL: Final = (
    "PostgreSQL's server programs (initdb, postgres) were not found; the tests need a real one:\n"
    "  Debian, Ubuntu: apt-get install postgresql\n"
    "  Fedora:         dnf install postgresql-server"
)


class PgDatabase(NamedTuple):
    """A database and how to enter it."""

    port: int
    name: str
    socket_directory: str
    host: str = HOST
    user: str = USER
    password: str = PASSWORD

    @property
    def properties(self) -> Mapping[str, str]:
        """Give the settings of a control plane that uses it."""
        return {
            "database": "postgres",
            "pg_host": self.host,
            "pg_port": str(self.port),
            "pg_user": self.user,
            "pg_password": self.password,
            "pg_database": self.name,
        }

    @property
    def environ(self) -> Mapping[str, str]:
        """Give the same as environment variables."""
        return {f"FASTGW_{name.upper()}": value for name, value in self.properties.items()}

    def run(self, sql: str) -> str:
        """Execute *sql* by psql, past all passwords; return the rows, columns parted by `|`."""
        command = [
            str(find_program("psql")),
            *("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
            *("-h", self.socket_directory, "-p", str(self.port), "-U", self.user, "-d", self.name),
            *("-c", sql),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"psql: {done.stderr}"
        return done.stdout.strip()


class PgServer:
    """One server; may be stopped, killed and started again on the same port and data."""

    def __init__(self, directory: Path) -> None:
        """Make its data in *directory*, which must be reachable by another user."""
        self.directory = directory
        self._data = directory / "data"
        self._log = directory / "log"
        self.options = {
            "listen_addresses": HOST,
            "unix_socket_directories": str(directory),
            "max_connections": "100",
            "shared_buffers": "32MB",
            # In the data directory, so that a crash leaves nothing elsewhere.
            "dynamic_shared_memory_type": "mmap",
            "fsync": "off",
            "full_page_writes": "off",
            "log_destination": "stderr",
        }
        """For postgresql.conf, read at each start."""
        self._account = pwd.getpwnam(_other_user()) if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.give_away(directory)
        self._initdb()

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def give_away(self, path: Path) -> None:
        """Make *path* the property of the user that the server runs as."""
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def start(self) -> None:
        """Start and wait until it answers; the first time on a port that is free, then on the same."""
        assert self._process is None
        if self.port:
            assert self._try_start(), f"PostgreSQL did not start:\n{self._log.read_text()}"
            return
        for _ in range(_ATTEMPTS):
            self.port = free_port()
            if self._try_start():
                return
        raise AssertionError(f"PostgreSQL did not start:\n{self._log.read_text()}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop, by default cutting all connections in good order; SIGKILL is a crash."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.wait(_STOP_S)
        if how == signal.SIGKILL:
            # The orphans see within a moment that their postmaster is gone; a new one waits for that.
            wait_until(lambda: not self._has_shared_memory(), _STOP_S, "PostgreSQL's orphans are gone")

    def freeze(self) -> None:
        """Have it and all of its children answer nothing, as a machine does that has lost its network."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            os.kill(pid, number)

    def database(self, name: str = "postgres") -> PgDatabase:
        return PgDatabase(port=self.port, name=name, socket_directory=str(self.directory))

    def create_database(self, template: str = "template0") -> PgDatabase:
        name = f"t_{uuid.uuid4().hex}"
        self.database().run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.database(name)

    def drop_database(self, name: str) -> None:
        self.database().run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _initdb(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(PASSWORD)
        self.give_away(password_file)
        self._run(
            str(find_program("initdb")),
            *("-D", str(self._data), "-U", USER, "--pwfile", str(password_file)),
            *("--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"),
        )

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            self._as_other_user(*command), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"

    def _as_other_user(self, *command: str) -> list[str]:
        if self._account is None:
            return list(command)
        user = (f"--reuid={self._account.pw_uid}", f"--regid={self._account.pw_gid}", "--clear-groups")
        return ["setpriv", *user, *command]

    def _try_start(self) -> bool:
        """Start; False when it ended at once, for instance because the port is taken."""
        options = {**self.options, "port": str(self.port)}
        command = [str(find_program("postgres")), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._as_other_user("setpriv", "--pdeathsig", "INT", *command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        wait_until(
            lambda: process.poll() is not None or self._is_ready(process.pid), _START_S, "PostgreSQL is ready"
        )
        if process.poll() is not None:
            return False
        self._process = process
        return True

    def _is_ready(self, pid: int) -> bool:
        """Read postmaster.pid: the first line is its process, the eighth how far it is."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _has_shared_memory(self) -> bool:
        """Tell whether a process still maps our data directory's shared memory or works in it."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink() == self._data:
                    return True
            except OSError:
                continue
        return False


def find_program(name: str) -> Path:
    """Find one of PostgreSQL's programs: the newest of the distribution's, or the one in PATH.

    Fails the test, as storage is tested on the real thing or not at all.
    """
    candidates = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"),
        key=lambda path: int(path.parts[-3]) if path.parts[-3].isdecimal() else 0,
    )
    if candidates:
        return candidates[-1]
    found = shutil.which(name)
    if found is None:
        pytest.fail(_INSTALL, pytrace=False)
    return Path(found)


def _other_user() -> str:
    """Choose whom the server runs as when we are root."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def make_directory() -> Path:
    """Make a directory that another user may reach, which those of pytest are not.

    In memory where there is room: making a database writes some 8 MB, in 30 ms there and ten times that on
    many a disk.
    """
    parent = None
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES:
        parent = _MEMORY
    return Path(tempfile.mkdtemp(prefix="fastgw-postgres-", dir=parent))


@pytest.fixture(scope="session")
def pg_server() -> Iterator[PgServer]:
    """The session's server."""
    directory = make_directory()
    try:
        server = PgServer(directory)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def pg_own_server() -> Iterator[PgServer]:
    """A server for one test, which may stop and start it; not started yet."""
    directory = make_directory()
    try:
        server = PgServer(directory)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def pg_database(pg_server: PgServer) -> Iterator[PgDatabase]:
    """A fresh, empty database."""
    database = pg_server.create_database()
    yield database
    pg_server.drop_database(database.name)
