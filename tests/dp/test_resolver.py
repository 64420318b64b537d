"""Names to addresses: c-ares against a real name server, and how long each kind of answer is used."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import uvloop

from fastgw.dp.upstream.dns import Found, NameServers, ResolveError
from fastgw.dp.upstream.resolver import Resolver, ResolverOptions
from tests.dp.dns_server import AAAA, NAME_ERROR, SERVER_FAILURE, NameServer, Zone
from tests.dp.rig import running

DEADLINE_S = 10.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def server() -> Iterator[NameServer]:
    started = NameServer()
    yield started
    started.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@contextlib.asynccontextmanager
async def name_servers(server: NameServer) -> AsyncIterator[NameServers]:
    servers = NameServers(asyncio.get_running_loop(), [server.address])
    try:
        yield servers
    finally:
        await servers.close()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Script:
    """Answers as scripted, one for each question; counts them; `hold` keeps them waiting."""

    def __init__(self, *answers: Found | ResolveError) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.hold: asyncio.Event | None = None

    async def __call__(self, name: str) -> Found:
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, ResolveError):
            raise answer
        return answer


def resolver_of(script: Script, clock: Clock, **options: float) -> Resolver:
    return Resolver(asyncio.get_running_loop(), script, ResolverOptions(**options), clock=clock)  # type: ignore[arg-type]


async def settled() -> None:
    """Let tasks that wait for nothing outside run to their end."""
    for _ in range(10):
        await asyncio.sleep(0)


ONE = Found(("10.0.0.1",), 60)
TWO = Found(("10.0.0.2",), 60)
GONE = ResolveError("a: gone", is_name_error=True)
EMPTY = ResolveError("a: no address", is_not_found=True)
BROKEN = ResolveError("a: servers fail")


# --- questions


def test_records_with_their_time_to_live(server: NameServer) -> None:
    server.zones["a.example"] = Zone(["10.0.0.1", "10.0.0.2", "::9"], ttl_s=77)

    async def test() -> None:
        async with name_servers(server) as servers:
            assert await servers.ask("a.example") == Found(("10.0.0.1", "10.0.0.2"), 77)

    run(test)
    assert server.asked("a.example", AAAA) == 0


def test_ipv6_where_there_is_no_ipv4(server: NameServer) -> None:
    server.zones["six.example"] = Zone(["2001:db8::1"], ttl_s=5)

    async def test() -> None:
        async with name_servers(server) as servers:
            assert await servers.ask("six.example") == Found(("2001:db8::1",), 5)

    run(test)


@pytest.mark.parametrize(
    ("zone", "is_name_error", "is_not_found"),
    [
        (Zone(code=NAME_ERROR), True, True),
        (Zone(), False, True),
        (Zone(code=SERVER_FAILURE), False, False),
    ],
    ids=["no such name", "no address", "failure"],
)
def test_failures_are_told_apart(
    zone: Zone, is_name_error: bool, is_not_found: bool, server: NameServer
) -> None:
    server.zones["a.example"] = zone

    async def test() -> None:
        async with name_servers(server) as servers:
            with pytest.raises(ResolveError, match=r"^a\.example: ") as caught:
                await servers.ask("a.example")
            assert caught.value.is_name_error is is_name_error
            assert caught.value.is_not_found is is_not_found

    run(test)


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64 + ".example", "bücher.example" * 30])
def test_what_is_no_name_is_not_found(name: str, server: NameServer) -> None:
    async def test() -> None:
        async with name_servers(server) as servers:
            with pytest.raises(ResolveError):
                await servers.ask(name)

    run(test)


def test_the_hosts_file_goes_first(server: NameServer) -> None:
    async def test() -> None:
        async with name_servers(server) as servers:
            assert (await servers.ask("localhost")).addresses == ("127.0.0.1",)

    run(test)
    assert server.questions == []


# --- answers and their age


def test_addresses_need_no_question() -> None:
    async def test() -> None:
        resolver = resolver_of(Script(), Clock())
        assert await resolver.addresses("10.1.2.3") == ("10.1.2.3",)
        assert await resolver.addresses("[2001:DB8::1]") == ("2001:db8::1",)

    run(test)


def test_an_answer_is_used_for_its_life_then_stale_while_another_is_asked_for() -> None:
    async def test() -> None:
        script, clock = Script(ONE, TWO), Clock()
        resolver = resolver_of(script, clock)
        assert await resolver.addresses("a") == ONE.addresses
        clock.now_s += 59.9
        assert await resolver.addresses("A") == ONE.addresses
        assert script.asked == 1
        clock.now_s += 0.2
        script.hold = asyncio.Event()
        assert await resolver.addresses("a") == ONE.addresses  # at once, though the servers are slow
        assert await resolver.addresses("a") == ONE.addresses
        await asyncio.sleep(0)
        assert script.asked == 2
        script.hold.set()
        await settled()
        assert await resolver.addresses("a") == TWO.addresses
        assert script.asked == 2

    run(test)


def test_too_stale_is_asked_for_and_waited_for() -> None:
    async def test() -> None:
        script, clock = Script(ONE, TWO), Clock()
        resolver = resolver_of(script, clock, stale_ttl_s=10)
        await resolver.addresses("a")
        clock.now_s += 70
        assert await resolver.addresses("a") == TWO.addresses

    run(test)


@pytest.mark.parametrize(("failure", "stays"), [(BROKEN, True), (EMPTY, True), (GONE, False)])
def test_only_a_name_that_is_gone_replaces_a_stale_answer(failure: ResolveError, stays: bool) -> None:
    async def test() -> None:
        script, clock = Script(ONE, failure, TWO), Clock()
        resolver = resolver_of(script, clock)
        await resolver.addresses("a")
        clock.now_s += 61
        assert await resolver.addresses("a") == ONE.addresses
        await settled()
        if stays:
            assert await resolver.addresses("a") == ONE.addresses
            assert script.asked == 2  # not again before error_ttl_s
            clock.now_s += 1.1
            assert await resolver.addresses("a") == ONE.addresses
            await settled()
            assert await resolver.addresses("a") == TWO.addresses
        else:
            with pytest.raises(ResolveError):
                await resolver.addresses("a")

    run(test)


@pytest.mark.parametrize(("failure", "life_s"), [(GONE, 30), (EMPTY, 30), (BROKEN, 1)])
def test_failures_are_remembered_and_forgotten(failure: ResolveError, life_s: float) -> None:
    async def test() -> None:
        script, clock = Script(failure, ONE), Clock()
        resolver = resolver_of(script, clock)
        for _ in range(3):
            with pytest.raises(ResolveError, match=str(failure)):
                await resolver.addresses("a")
        assert script.asked == 1
        clock.now_s += life_s
        assert await resolver.addresses("a") == ONE.addresses

    run(test)


def test_one_question_serves_all_who_wait_and_outlives_the_one_who_gives_up() -> None:
    async def test() -> None:
        script = Script(ONE)
        script.hold = asyncio.Event()
        resolver = resolver_of(script, Clock())
        waiting = [asyncio.create_task(resolver.addresses("a")) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        script.hold.set()
        assert await asyncio.gather(*waiting[1:]) == [ONE.addresses] * 4
        assert script.asked == 1

    run(test)


def test_the_settings_may_replace_the_time_to_live_and_zero_is_a_second() -> None:
    async def test() -> None:
        zero = Found(("10.0.0.1",), 0)
        script, clock = Script(zero, zero), Clock()
        resolver = resolver_of(script, clock, valid_ttl_s=5, stale_ttl_s=0)
        await resolver.addresses("a")
        clock.now_s += 4.9
        await resolver.addresses("a")
        assert script.asked == 1
        script, clock = Script(zero, zero), Clock()
        resolver = resolver_of(script, clock, stale_ttl_s=0)
        await resolver.addresses("a")
        clock.now_s += 0.9
        await resolver.addresses("a")
        assert script.asked == 1
        clock.now_s += 0.2
        await resolver.addresses("a")
        assert script.asked == 2

    run(test)


def test_the_name_not_used_for_longest_goes_first() -> None:
    async def test() -> None:
        script = Script(*[ONE] * 4)
        resolver = resolver_of(script, Clock(), names=2)
        for name in ("a", "b", "a", "c", "a"):
            await resolver.addresses(name)
        assert script.asked == 3
        await resolver.addresses("b")
        assert script.asked == 4

    run(test)


# --- in the proxy


def test_a_service_by_name_is_found_and_asked_for_once(server: NameServer) -> None:
    server.zones["svc.example"] = Zone(["127.0.0.1"])
    services = [{"name": "svc", "host": "svc.example"}]
    with running(services, resolver=ResolverOptions(servers=(server.address,))) as (proxy, upstream):
        for _ in range(2):
            client = proxy.client()
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            peer = upstream.accept()
            peer.read_head()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            assert client.read_answer()[0] == 200
        assert server.asked("svc.example") == 1


def test_a_name_that_does_not_exist_is_503_at_once_from_then_on(server: NameServer) -> None:
    services = [{"name": "svc", "host": "nowhere.example"}]
    with running(services, resolver=ResolverOptions(servers=(server.address,))) as (proxy, _):
        for _ in range(2):
            client = proxy.client()
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            status, _, body = client.read_answer()
            assert status == 503
            assert b"name resolution failed" in body
        assert server.asked("nowhere.example") == 1


def test_silent_servers_hold_up_nobody_else(server: NameServer) -> None:
    server.zones["silent.example"] = Zone(is_silent=True)
    services = [{"name": "slow", "host": "silent.example"}, {"name": "svc", "host": "127.0.0.1"}]
    routes = [{"paths": ["/slow"], "service": "slow"}, {"paths": ["/"], "service": "svc"}]
    with running(services, routes, resolver=ResolverOptions(servers=(server.address,))) as (proxy, upstream):
        waits = proxy.client()
        waits.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        peer = upstream.accept()
        peer.read_head()
        peer.send(OK)
        assert client.read_answer()[0] == 200
