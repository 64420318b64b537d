"""Kong's command, for charts and scripts that call it: `kong docker-start`, `kong quit --wait=15` and so on.

The image has it as `kong` (docker/kong); the package does not, so that installing fastgw beside Kong hides
nothing. What both commands have is handed to `fastgw`; what only Kong has (a role taken from the settings, a
process id in `PREFIX/pids/nginx.pid`, starting in the background) is here. Options of Kong that have no use
here are taken and left.

    kong docker-start        run in the foreground, in the role that KONG_ROLE names
    kong start               in the background, unless KONG_NGINX_DAEMON is off; returns when it serves
    kong stop, quit, reload  to the process of the prefix
    kong health, check       of the role that the settings name
    kong migrations, config, hybrid, version     as `fastgw` has them
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from fastgw.cli.common import find_conf, load
from fastgw.errors import FastgwError, SettingsError
from fastgw.settings import Role, Settings, find_role

START_S: Final = 90.0
STOP_S: Final = 20.0
"""After the signal: draining takes ten seconds at most."""
_POLL_S: Final = 0.05
_COMMANDS: Final[Mapping[Role, str]] = {"control_plane": "cp", "data_plane": "dp"}
# Kong's options of commands that are handed on, without use here; with the number of words that follow.
_IGNORED: Final = {
    "-v": 0,
    "--v": 0,
    "--vv": 0,
    "-f": 0,
    "--force": 0,
    "--db-timeout": 1,
    "--lock-timeout": 1,
}
_HANDED_ON: Final = ("migrations", "config", "hybrid", "version")


class KongCommandFailed(FastgwError):
    code = "kong_command"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] and words[0] in _HANDED_ON:
            return _hand_on(words)
        return int(kong.main(words, "kong", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except FastgwError as error:
        click.echo(f"kong: {' '.join(str(error).split())}", err=True)
        return 1


def _hand_on(words: Sequence[str]) -> int:
    from fastgw.cli import main as fastgw

    kept: list[str] = []
    skip = 0
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip -= 1
        elif name in _IGNORED:
            skip = 0 if equals else _IGNORED[name]
        else:
            kept.append(word)
    # Kong's `version -a` and ours mean the same; `config` has Kong's names for its commands.
    return int(fastgw.main(kept, "kong", standalone_mode=False) or 0)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add Kong's options that all commands have."""
    for option in (
        click.option("-c", "--conf", type=click.Path(path_type=Path)),
        click.option("-p", "--prefix"),
        click.option("-v", "--v", "verbose", is_flag=True, hidden=True),
        click.option("--vv", "very_verbose", is_flag=True, hidden=True),
        click.option("--nginx-conf", hidden=True),
        click.option("--db-timeout", hidden=True),
        click.option("--lock-timeout", hidden=True),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def kong() -> None:
    """Kong's command on fastgw. Also: migrations, config, hybrid, version, as of 'fastgw'."""


@kong.command("docker-start")
@_options
def docker_start(conf: Path | None, prefix: str | None, **_: object) -> None:
    """Run in the foreground, in the role that the settings name."""
    _run(*_settings(conf, prefix))


@kong.command()
@_options
@click.option("--run-migrations", is_flag=True, help="Prepare the database first.")
def start(conf: Path | None, prefix: str | None, run_migrations: bool, **_: object) -> None:
    """Run in the background, and return when it serves."""
    settings, words = _settings(conf, prefix)
    running = _find_process(settings)
    if running is not None:
        raise KongCommandFailed(f"already running in {settings.prefix}, process {running}")
    if run_migrations and settings.role == "control_plane":
        for step in ("bootstrap", "up", "finish"):
            _hand_on(["migrations", step, *words])
    if (os.environ.get("KONG_NGINX_DAEMON") or "on") == "off":
        _run(settings, words)
    _start_in_background(words)
    click.echo("Kong started")


@kong.command()
@_options
def stop(conf: Path | None, prefix: str | None, **_: object) -> None:
    """End the process of the prefix; it drains first."""
    _end(_settings(conf, prefix)[0], signal.SIGTERM, STOP_S)
    click.echo("Kong stopped")


@kong.command()
@_options
@click.option("-t", "--timeout", type=click.FloatRange(0), default=10.0, show_default=True, help="Seconds.")
@click.option(
    "-w", "--wait", type=click.FloatRange(0), default=0.0, show_default=True, help="Seconds before."
)
def quit(conf: Path | None, prefix: str | None, timeout: float, wait: float, **_: object) -> None:
    """End the process of the prefix: first wait, then have it drain."""
    settings, _words = _settings(conf, prefix)
    if _find_process(settings) is None:
        raise KongCommandFailed(f"not running in {settings.prefix}")
    time.sleep(wait)
    _end(settings, signal.SIGQUIT, timeout)
    click.echo("Kong stopped (gracefully)")


@kong.command()
@_options
def restart(conf: Path | None, prefix: str | None, **_: object) -> None:
    """End the process of the prefix if there is one, and start another."""
    settings, words = _settings(conf, prefix)
    if _find_process(settings) is not None:
        _end(settings, signal.SIGTERM, STOP_S)
    _start_in_background(words)
    click.echo("Kong restarted")


@kong.command()
@_options
def reload(conf: Path | None, prefix: str | None, **_: object) -> None:
    """Have the process of the prefix read anew what can be read anew."""
    settings, _words = _settings(conf, prefix)
    running = _find_process(settings)
    if running is None:
        raise KongCommandFailed(f"not running in {settings.prefix}")
    os.kill(running, signal.SIGHUP)
    click.echo("Kong reloaded")


@kong.command()
@_options
def health(conf: Path | None, prefix: str | None, **_: object) -> None:
    """Ask the node of these settings how it is."""
    settings, words = _settings(conf, prefix)
    raise SystemExit(_hand_on(["health", _COMMANDS[settings.role], *words]))


@kong.command()
@_options
def prepare(conf: Path | None, prefix: str | None, **_: object) -> None:
    """Make the prefix."""
    settings, _words = _settings(conf, prefix)
    _make(settings.prefix)
    click.echo(f"prepared {settings.prefix}")


@kong.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_options
def check(file: Path | None, conf: Path | None, prefix: str | None, **_: object) -> None:
    """Check settings, without starting anything."""
    _settings(file or conf, prefix)
    click.echo("configuration is valid")


def _settings(conf: Path | None, prefix: str | None) -> tuple[Settings, list[str]]:
    """Load the settings of the role that they name; also gives the words that lead `fastgw` to the same.

    Kong's default role, traditional, is one node for everything. Without a database and with a declarative
    file that is what a data plane does; with a database it has no counterpart.
    """
    conf = find_conf(conf)
    flags = {} if prefix is None else {"prefix": prefix}
    try:
        role = find_role(file=conf, flags=flags)
        reason = "no role is set, and Kong's default, traditional, does not exist here"
    except SettingsError as error:
        role, reason = None, str(error)
    if role is None:
        flags["role"] = role = "data_plane"
        # Without a database there is nothing that only a control plane could do.
        settings = load(role, conf, flags, warn=False)
        if settings.database != "off" or settings.declarative_config is None:
            raise KongCommandFailed(
                f"{reason}: set KONG_ROLE to control_plane or data_plane, or KONG_DATABASE=off and "
                "KONG_DECLARATIVE_CONFIG for a node that serves a file"
            )
    else:
        settings = load(role, conf, flags, warn=False)
    words = [] if conf is None else ["-c", str(conf)]
    return settings, words + [word for name, value in flags.items() for word in ("--set", f"{name}={value}")]


def _run(settings: Settings, words: Sequence[str]) -> NoReturn:
    """Be the gateway, and tell who that is."""
    from fastgw.cli import main as fastgw

    _make(settings.prefix / "pids")
    path = _pid_path(settings)
    # Beside its place first: who reads it never sees half a number.
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(f"{os.getpid()}\n")
    beside.replace(path)
    try:
        fastgw.main([_COMMANDS[settings.role], *words], "kong", standalone_mode=True)
    finally:
        path.unlink(missing_ok=True)
    raise SystemExit(0)


def _start_in_background(words: Sequence[str]) -> None:
    """Start `docker-start` apart from this process, and wait until it says that it serves."""
    address = f"fastgw-kong-start-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(f"\0{address}")
        told.settimeout(_POLL_S)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastgw.cli.kong", "docker-start", *_kong_words(words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "NOTIFY_SOCKET": f"@{address}"},
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in told.recv(65536):
                    return
            except TimeoutError:
                if process.poll() is not None:
                    raise KongCommandFailed(f"it ended with {process.returncode}: see above") from None
        process.kill()
        raise KongCommandFailed(f"it does not serve after {START_S:.0f} s, and was ended")


def _kong_words(words: Sequence[str]) -> list[str]:
    """Turn words for `fastgw` into the same for `kong`, which knows a prefix only."""
    kept = [words[at + 1].removeprefix("prefix=") for at, word in enumerate(words) if word == "--set"]
    prefix = next((word for word in kept if not word.startswith("role=")), None)
    conf = words[1] if words[:1] == ["-c"] else None
    return [*(["-c", conf] if conf else []), *(["-p", prefix] if prefix else [])]


def _end(settings: Settings, number: signal.Signals, timeout_s: float) -> None:
    """Send *number* to the process of the prefix and wait for its end; in the end without mercy."""
    running = _find_process(settings)
    if running is None:
        raise KongCommandFailed(f"not running in {settings.prefix}")
    pidfd = os.pidfd_open(running)
    try:
        signal.pidfd_send_signal(pidfd, number)
        if _has_ended(running, timeout_s):
            return
        signal.pidfd_send_signal(pidfd, number)  # the second one does not wait for requests
        if not _has_ended(running, timeout_s):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _has_ended(pid: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while _is_gateway(pid):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _find_process(settings: Settings) -> int | None:
    """Find the process of the prefix: the one that the file names, if that is one of ours."""
    try:
        pid = int(_pid_path(settings).read_text("ascii"))
    except (OSError, ValueError):
        return None
    return pid if pid != os.getpid() and _is_gateway(pid) else None


def _is_gateway(pid: int) -> bool:
    """Say whether *pid* lives and was started as one of our commands: numbers are given out again."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return False
    return state != "Z" and any(b"kong" in word or b"fastgw" in word for word in words[:5])


def _pid_path(settings: Settings) -> Path:
    return settings.prefix / "pids" / "nginx.pid"


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"{directory}: cannot be made: {(error.strerror or str(error)).lower()}"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
