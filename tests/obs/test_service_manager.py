"""The readiness protocol against a real datagram socket, by path and by abstract name."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.obs.service_manager import ServiceManager
from tests.obs.listening_manager import ListeningManager


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ListeningManager]:
    address = f"@fastgw-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with ListeningManager(address) as manager:
        yield manager


def test_each_word_arrives_as_one_datagram(listening: ListeningManager) -> None:
    environ = listening.environ()
    manager = ServiceManager(environ)
    manager.ready("two workers\non 0.0.0.0:8000")
    assert listening.wait() == {"READY": "1", "STATUS": "two workers on 0.0.0.0:8000"}
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.reloading()
    told = listening.wait()
    assert told.pop("RELOADING") == "1"
    assert before_us <= int(told.pop("MONOTONIC_USEC")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert not told
    manager.stopping("drains")
    assert listening.wait() == {"STOPPING": "1", "STATUS": "drains"}
    manager.close()
    manager.ready("too late")
    assert listening.is_silent()


def test_the_watchdog_is_fed_from_the_loop_twice_as_often_as_it_must_be(listening: ListeningManager) -> None:
    async def run() -> None:
        manager = ServiceManager(listening.environ(WATCHDOG_USEC="100000", WATCHDOG_PID=str(os.getpid())))
        manager.start_watchdog()
        begun = time.monotonic()
        for _ in range(4):
            assert await asyncio.to_thread(listening.wait) == {"WATCHDOG": "1"}
        assert 0.14 <= time.monotonic() - begun
        manager.close()

    asyncio.run(run())
    assert listening.is_silent()


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {},
    ],
)
def test_a_watchdog_that_is_not_ours_is_not_fed(environ: dict[str, str], listening: ListeningManager) -> None:
    manager = ServiceManager(listening.environ(**environ))
    assert manager.watchdog_s is None
    manager.close()


def test_children_do_not_inherit_the_variables(listening: ListeningManager) -> None:
    environ = listening.environ(WATCHDOG_USEC="100000", WATCHDOG_PID=str(os.getpid()), OTHER="stays")
    ServiceManager(environ).close()
    assert environ == {"OTHER": "stays"}


def test_without_a_service_manager_nothing_happens() -> None:
    manager = ServiceManager({})
    assert not manager.is_told
    manager.ready("fine")
    manager.start_watchdog()
    manager.close()


def test_an_address_of_another_kind_is_told_and_left(capfd: pytest.CaptureFixture[str]) -> None:
    assert not ServiceManager({"NOTIFY_SOCKET": "vsock:2:1234"}).is_told
    assert "vsock:2:1234" in capfd.readouterr().err


def test_a_manager_that_is_gone_costs_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    manager.ready("fine")
    manager.ready("fine")
    manager.close()
    assert capfd.readouterr().err.count("the service manager cannot be told READY=1") == 1


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        begun = time.monotonic()
        for _ in range(2000):
            manager.ready("fine")
        assert time.monotonic() - begun < 5
        manager.close()
