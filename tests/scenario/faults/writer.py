"""Writes through the Admin API beside a fault, and the memory of what was answered.

Contract. A write that was answered 2xx must be there at the end; one that was refused must not; of one that got
no answer, or an error of the server's, nothing is known, and its row is left alone from then on.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import httpx

from tests.scenario.process import HOST
from tests.waiting import wait_until

SERVICE: Final = "steady"
_PAUSE_S: Final = 0.1
_STOP_S: Final = 20.0
_TIMEOUT_S: Final = 10.0


class Writer:
    """One caller that adds, changes and removes routes, at one control plane after the other."""

    def __init__(self, admin_ports: Sequence[int]) -> None:
        self.answered_total = 0
        self.unanswered_total = 0
        """Those of which nothing is known, or that were refused."""
        self._addresses = [f"http://{HOST}:{port}" for port in admin_ports]
        self._rows: dict[str, list[str] | None] = {}
        """By name: the tags that were answered, or None for a row whose removal was."""
        self._unknown: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_on, daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Have the last write answered, and write no more; may be called again."""
        self._stopping.set()
        self._thread.join(_STOP_S)
        assert not self._thread.is_alive(), "a write hangs"
        if self._failure is not None:
            raise self._failure

    def wait_answered(self, count: int, deadline_s: float = 30.0) -> None:
        """Wait until so many more writes are taken."""
        enough = self.answered_total + count
        wait_until(lambda: self.answered_total >= enough, deadline_s, f"{count} writes are taken")

    def wait_unanswered(self, count: int, deadline_s: float = 30.0) -> None:
        """Wait until so many more writes are refused, or not answered."""
        enough = self.unanswered_total + count
        wait_until(lambda: self.unanswered_total >= enough, deadline_s, f"{count} writes are not")

    def present(self) -> list[str]:
        """The names of routes that are there, oldest first; each is also its path."""
        return [name for name, tags in self._rows.items() if tags is not None and name not in self._unknown]

    def removed(self) -> list[str]:
        """The names of routes that were removed."""
        return [name for name, tags in self._rows.items() if tags is None and name not in self._unknown]

    def assert_kept(self, found: dict[str, list[str] | None]) -> None:
        """Hold what is there at the end, tags by name of the route, against what was answered."""
        expected = {name: self._rows[name] for name in self.present()}
        lost = {name: (tags, found.get(name)) for name, tags in expected.items() if found.get(name) != tags}
        assert not lost, f"answered and lost (written, found): {lost}"
        back = [name for name in self.removed() if name in found]
        assert not back, f"removed and there again: {back}"

    def _write_on(self) -> None:
        clients = [
            httpx.Client(base_url=address, timeout=_TIMEOUT_S, trust_env=False) for address in self._addresses
        ]
        try:
            number = 0
            while not self._stopping.wait(_PAUSE_S):
                self._write(clients[number % len(clients)], number)
                number += 1
        except BaseException as error:
            self._failure = error
        finally:
            for client in clients:
                client.close()

    def _write(self, client: httpx.Client, number: int) -> None:
        """Three of five add a route, one changes the tags of an older one, one removes an older one."""
        kept = self.present()
        name, tags = f"w{number}", [f"t{number}"]
        if number % 5 == 3 and len(kept) > 2:
            name = kept[len(kept) // 2]
            self._keep(name, tags, self._ask(client, "PATCH", f"/routes/{name}", {"tags": tags}))
        elif number % 5 == 4 and len(kept) > 4:
            name = kept[0]
            self._keep(name, None, self._ask(client, "DELETE", f"/routes/{name}"))
        else:
            row = {"name": name, "paths": [f"/{name}"], "tags": tags}
            self._keep(name, tags, self._ask(client, "POST", f"/services/{SERVICE}/routes", row))

    def _keep(self, name: str, tags: list[str] | None, is_answered: bool) -> None:
        if is_answered:
            self.answered_total += 1
            self._rows[name] = tags
        else:
            self.unanswered_total += 1
            self._unknown.add(name)

    def _ask(self, client: httpx.Client, method: str, path: str, row: dict[str, Any] | None = None) -> bool:
        """Whether it was answered 2xx."""
        try:
            answer = client.request(method, path, json=row)
        except httpx.HTTPError:
            return False
        assert answer.is_success or answer.status_code >= 500, f"{method} {path}: {answer.text}"
        return answer.is_success
