"""Requests beside a test, without a pause or at a pace, each of which must be answered well.

with Load(port, "/steady", expect=b"...") as load:
    ...                                  # changes, crashes of other processes
load.assert_nothing_failed()
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from tests.scenario.process import HOST
from tests.waiting import wait_until

_TIMEOUT_S: Final = 10.0
_STOP_S: Final = 15.0
_SHOWN: Final = 10


class Load:
    """Some keep-alive connections that ask one path again and again."""

    def __init__(
        self, port: int, path: str, *, expect: bytes, connections: int = 2, every_s: float = 0.0
    ) -> None:
        """Prepare it.

        Args:
            expect: every answer must be 200 with this body.
            every_s: each connection pauses so long between two requests.
        """
        self.answered_total = 0
        self.failures: list[str] = []
        self.unserved_total = 0
        """Requests that failed while no answer could be expected."""
        self._is_away = False
        self._every_s = every_s
        self._port = port
        self._path = path
        self._expect = expect
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(connections)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(_STOP_S)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs"

    def assert_nothing_failed(self, *, at_least: int = 1) -> None:
        """Every request was answered as expected, and there were so many."""
        assert not self.failures, f"{len(self.failures)} failed: {self.failures[:_SHOWN]}"
        assert self.answered_total >= at_least

    def wait_answers(self, count: int, deadline_s: float = 15.0) -> None:
        """Wait for so many more answers."""
        enough = self.answered_total + count
        wait_until(lambda: self.answered_total >= enough, deadline_s, f"{count} answers")

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """In here, whoever answers is ended and started again: only 200 with another body is a failure."""
        with self._lock:
            self._is_away = True
        try:
            yield
        finally:
            with self._lock:
                self._is_away = False

    def _ask_on(self) -> None:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=_TIMEOUT_S)
        try:
            while not self._stopping.wait(self._every_s):
                was_away = self._is_away
                failure = self._ask(connection)
                with self._lock:
                    if failure is None:
                        self.answered_total += 1
                    elif not failure.startswith("200 ") and (was_away or self._is_away):
                        self.unserved_total += 1
                    else:
                        self.failures.append(failure)
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> str | None:
        """Ask once; returns what was wrong with the answer, or why there was none."""
        try:
            connection.request("GET", self._path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return repr(error)
        if (answer.status, body) != (200, self._expect):
            return f"{answer.status} {body[:200]!r}"
        return None
