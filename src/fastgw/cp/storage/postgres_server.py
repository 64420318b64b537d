"""A PostgreSQL server: how to connect to it, and what to tell a person when that or a statement fails.

Contract. Every call on a connection has a deadline. Whatever asyncpg, the server or the network raises
becomes one line that names the server and what to do, as `StorageUnavailable` where trying later may help,
and else as `StorageError`. Only texts of the server and of the operating system are passed on, so no password
can be in them.

Our tables live in a schema of their own, `fastgw`: the database may be one that Kong's tables are in.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import asyncpg

from fastgw.errors import StorageError, StorageUnavailable
from fastgw.settings import Settings

SCHEMA: Final = "fastgw"
_OLDEST_MAJOR: Final = 13
# A control plane that vanished with the version row locked holds up the others for so long at most.
_IDLE_IN_TRANSACTION_S: Final = 30

# What asyncpg raises; TimeoutError is an OSError.
FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
# Trying later does not help: a constraint, a value that the database or an index cannot hold, a wrong one.
_MISTAKES: Final = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.SyntaxOrAccessError,
)
CONNECTION_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    ConnectionError,
)
"""The connection is gone, or was closed by the server; another may do."""


class PostgresServer(NamedTuple):
    """Where the database is and as whom to enter."""

    host: str
    port: int
    user: str
    password: str
    database: str
    timeout_s: float
    """For connecting, and for each statement."""
    use_tls: bool = False
    verify_tls: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> PostgresServer:
        return cls(
            host=settings.pg_host,
            port=settings.pg_port,
            user=settings.pg_user,
            password=settings.pg_password,
            database=settings.pg_database,
            timeout_s=settings.pg_timeout / 1000,
            use_tls=settings.pg_ssl,
            verify_tls=settings.pg_ssl_verify,
        )

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"PostgreSQL at {self.host}:{self.port} (database {self.database}, user {self.user})"

    def arguments(self, *, statement_timeout_s: float | None = None) -> dict[str, Any]:
        """Give the keyword arguments for `asyncpg.connect` and `create_pool`."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "timeout": self.timeout_s,
            "command_timeout": statement_timeout_s or self.timeout_s,
            "ssl": _make_tls_context(self.verify_tls) if self.use_tls else False,
            "server_settings": {
                "application_name": "fastgw",
                "search_path": SCHEMA,
                "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_S * 1000),
                "jit": "off",
            },
        }

    async def connect(
        self, *, statement_timeout_s: float | None = None
    ) -> asyncpg.Connection[asyncpg.Record]:
        """Open one connection; the caller closes it."""
        with self.clear_errors():
            connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
                **self.arguments(statement_timeout_s=statement_timeout_s)
            )
        version = connection.get_server_version()
        if version.major < _OLDEST_MAJOR:
            connection.terminate()
            raise StorageError(
                f"{self}: it is version {version.major}, and {_OLDEST_MAJOR} is the oldest served"
            )
        return connection

    @contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Turn what asyncpg raises inside into one clear line."""
        try:
            yield
        except _MISTAKES as error:
            raise StorageError(f"{self}: {_explain(error, self)}") from error
        except FAILURES as error:
            raise StorageUnavailable(f"{self}: {_explain(error, self)}") from error


class PostgresConnection:
    """A connection inside a transaction, with clear errors."""

    __slots__ = ("_connection", "_server")

    def __init__(self, connection: Any, server: PostgresServer) -> None:
        self._connection = connection
        self._server = server

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Sequence[Any]]:
        with self._server.clear_errors():
            records: Sequence[Sequence[Any]] = await self._connection.fetch(sql, *arguments)
            return records

    async def execute(self, sql: str, *arguments: Any) -> None:
        with self._server.clear_errors():
            await self._connection.execute(sql, *arguments)

    # A statement that waits for another is no journey less here.
    execute_later = execute

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._server.clear_errors():
            await self._connection.executemany(sql, rows)


def _explain(error: BaseException, server: PostgresServer) -> str:
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return f"{_first_line(error)}; check pg_user and pg_password"
        case asyncpg.InvalidCatalogNameError():
            return f"the database does not exist; create it: createdb -O {server.user} {server.database}"
        case asyncpg.InsufficientPrivilegeError():
            return f"{_first_line(error)}; the user needs to own the database, or CREATE on it"
        case asyncpg.PostgresError():
            return _first_line(error)
        case TimeoutError():
            return f"no answer within {server.timeout_s * 1000:.0f} ms (pg_timeout)"
        case ConnectionRefusedError():
            return "connection refused; is it running, and are pg_host and pg_port right?"
        case ConnectionError() if error.errno is None and server.use_tls:
            return "it does not speak TLS; turn that on there, or set pg_ssl to off"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case OSError():
            return (error.strerror or type(error).__name__).lower()
        case asyncpg.InterfaceError():
            return "the connection is closed"
        case _:
            return type(error).__name__


def _first_line(error: asyncpg.PostgresError) -> str:
    return str(error).partition("\n")[0]


def _make_tls_context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
