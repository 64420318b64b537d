"""The proxies that are compared, and their one upstream: templates filled in, started, checked.

All contenders run at the same time, and idle while another is measured. What a contender's timers and
helpers cost is charged to it while it is measured; what they cost while it idles shows as "by others".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bench.load.machine import BenchError
from bench.load.processes import Processes, answers, free_ports, get
from fastgw.tls.generate import generate_placeholder_pair

_TEMPLATES: Final = Path(__file__).parent / "proxies"
_START_DEADLINE_S: Final = 30.0

#: 200 bytes of JSON.
SMALL_BODY: Final = '{"message":"' + "x" * 186 + '"}'
#: Size of one body of the loads `download` and `upload`.
LARGE_BYTES: Final = 64 * 1024 * 1024

#: What every contender but the relay and nginx-plain adds, on the way to the upstream and back.
_REQUEST_HEADERS: Final = frozenset(
    "via x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-port x-forwarded-path x-real-ip"
    " x-kong-request-id".split()
)
_RESPONSE_HEADERS: Final = frozenset(
    "via x-kong-upstream-latency x-kong-proxy-latency x-kong-request-id".split()
)


class Contender(msgspec.Struct, frozen=True):
    """A running proxy: its root process, and where it listens on loopback."""

    name: str
    pid: int
    port: int
    tls_port: int | None
    """None: it does not speak TLS."""


class Doors(NamedTuple):
    """Where a contender is to listen on loopback."""

    port: int
    tls_port: int


def start_upstream(processes: Processes, *, core: int | None) -> int:
    """Start the upstream; return its port."""
    (port,) = free_ports(1)
    with (processes.directory / "download.bin").open("wb") as file:
        file.truncate(LARGE_BYTES)
    _start_nginx(processes, "upstream", core, PORT=port, SMALL_BODY=SMALL_BODY)
    processes.wait_until("upstream", lambda: answers(port, "/"), deadline_s=_START_DEADLINE_S)
    return port


def start_contender(name: str, processes: Processes, *, upstream_port: int, core: int) -> Contender:
    """Start one of CONTENDERS on *core*, and wait until a request passes through it."""
    port, tls_port = free_ports(2)
    _make_certificate(processes.directory)
    pid = CONTENDERS[name](name, processes, core, Doors(port, tls_port), upstream_port)
    processes.wait_until(name, lambda: answers(port, "/"), deadline_s=_START_DEADLINE_S)
    _check_work(name, port)
    return Contender(name, pid, port, None if name == "relay" else tls_port)


def _make_certificate(directory: Path) -> None:
    """Write the one certificate (EC, P-256) that all present, in the forms that they read."""
    if (directory / "tls.pem").exists():
        return
    pair = generate_placeholder_pair("ec")
    for name, content in (
        ("tls.crt", pair.certificate_pem),
        ("tls.key", pair.key_pem),
        ("tls.pem", pair.certificate_pem + pair.key_pem),
    ):
        with open(directory / name, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(content)


def fastgw_command(*arguments: str) -> list[str]:
    """Command line of fastgw, run by this very interpreter."""
    return [sys.executable, "-m", "fastgw", *arguments]


def fastgw_env(**properties: object) -> dict[str, str]:
    """This process's environment, without settings of its own, plus FASTGW_* for *properties*."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("FASTGW_", "KONG_"))}
    return env | {f"FASTGW_{name.upper()}": str(value) for name, value in properties.items()}


def fill_in(template: str, values: Mapping[str, object]) -> str:
    """The text of a file in `proxies/` with @NAME@ replaced."""
    text = (_TEMPLATES / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def _start_nginx(processes: Processes, name: str, core: int | None, **values: object) -> int:
    template = "upstream.conf" if name == "upstream" else "nginx.conf"
    conf = processes.directory / f"{name}.conf"
    conf.write_text(fill_in(template, {"DIR": processes.directory, "NAME": name, **values}))
    # -e: the compiled-in error log is opened before the configuration is read, and may be out of reach.
    command = ["nginx", "-e", "stderr", "-p", str(processes.directory), "-c", str(conf)]
    return processes.start(name, command, core=core)


def _nginx(name: str, processes: Processes, core: int, doors: Doors, upstream_port: int) -> int:
    headers = "" if name == "nginx-plain" else f"include {_TEMPLATES / 'nginx-headers.conf'};"
    return _start_nginx(
        processes,
        name,
        core,
        PORT=doors.port,
        TLS_PORT=doors.tls_port,
        UPSTREAM_PORT=upstream_port,
        HEADERS=headers,
    )


def _haproxy(name: str, processes: Processes, core: int, doors: Doors, upstream_port: int) -> int:
    conf = processes.directory / f"{name}.cfg"
    values = {"PORT": doors.port, "TLS_PORT": doors.tls_port, "UPSTREAM_PORT": upstream_port}
    conf.write_text(fill_in(f"{name}.cfg", {"DIR": processes.directory, **values}))
    return processes.start(name, ["haproxy", "-q", "-db", "-f", str(conf)], core=core)


def _fastgw(name: str, processes: Processes, core: int, doors: Doors, upstream_port: int) -> int:
    more = range(10_000) if name == "fastgw-10k" else range(0)
    routes = "\n".join(f"      - {{name: r{n}, paths: [/routes/{n}]}}" for n in more)
    conf = processes.directory / f"{name}.yaml"
    conf.write_text(fill_in("fastgw.yaml", {"UPSTREAM_PORT": upstream_port, "MORE_ROUTES": routes}))
    (status_port,) = free_ports(1)
    env = fastgw_env(
        prefix=processes.directory / name,
        declarative_config=conf,
        workers=1,
        proxy_listen=f"127.0.0.1:{doors.port}, 127.0.0.1:{doors.tls_port} ssl",
        ssl_cert=processes.directory / "tls.crt",
        ssl_cert_key=processes.directory / "tls.key",
        status_listen=f"127.0.0.1:{status_port}",
        proxy_access_log="off",
        proxy_error_log="/dev/stderr",
        nginx_http_client_max_body_size=0,
    )
    return processes.start(name, fastgw_command("dp"), core=core, env=env)


#: Name on the command line → how it is started: (name, processes, core, doors, upstream port) → pid.
CONTENDERS: Final[Mapping[str, Callable[[str, Processes, int, Doors, int], int]]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "fastgw": _fastgw,
    "fastgw-10k": _fastgw,
    "nginx-plain": _nginx,
    "relay": _haproxy,
}

#: Those of CONTENDERS that do less on purpose, to show what the rest of the work costs.
DO_LESS: Final = frozenset({"nginx-plain", "relay"})


def tools_of(name: str) -> set[str]:
    """Programs from outside that a contender needs."""
    start = CONTENDERS[name]
    return {"nginx"} if start is _nginx else {"haproxy"} if start is _haproxy else set()


def _check_work(name: str, port: int) -> None:
    """Raise BenchError unless the proxy adds every header that the others add."""
    if name in DO_LESS:
        return
    status, headers, body = get(port, "/bench/seen")
    seen = {line.partition("=")[0] for line in body.decode().splitlines() if line.partition("=")[2]}
    if missing := sorted(_REQUEST_HEADERS - seen):
        raise BenchError(f"{name} does not send {', '.join(missing)} to the upstream (status {status})")
    if missing := sorted(_RESPONSE_HEADERS - headers.keys()):
        raise BenchError(f"{name} does not add {', '.join(missing)} to the answer (status {status})")
