"""The cluster key pair: the two commands that make one, and one clear line for each that cannot serve."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.tls.generate import GeneratedPair
from tests.scenario.harness import Pair, Stage, fastgw
from tests.scenario.process import Process
from tests.tls.certificates import gen_cert_pair, make_pair

# As it stands in Kong's documentation and in everybody's notes.
OPENSSL = (
    "openssl req -x509 -newkey rsa:4096 -keyout cluster.key -out cluster.crt -days 365 -nodes "
    "-subj '/CN=kong_clustering/'"
)

# Takes the place of an executable that another user may read: what is needed is imported as root.
AS_ANOTHER_USER = """
import encodings.ascii, encodings.idna, os, sys
import fastgw.cli.cp, fastgw.cli.dp, fastgw.cp.main, fastgw.dp.main, uvloop
from fastgw.cli import main
uid, gid = map(int, sys.argv[1:3])
os.setgroups([]); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
main(sys.argv[3:], prog_name="fastgw")
"""


def link_up(stage: Stage, pair: Pair) -> list[Process]:
    """Start both sides with *pair* and wait for the link."""
    control_plane = stage.control_plane(pair)
    data_plane = stage.data_plane(pair, control_plane)
    data_plane.wait_connected()
    return [control_plane, data_plane]


def test_a_pair_by_openssl_costs_one_warning_when_all_may_read_the_key(stage: Stage) -> None:
    assert stage.run("openssl", "sh", "-c", OPENSSL).exit_code() == 0
    pair = Pair(stage.directory / "cluster.crt", stage.directory / "cluster.key")
    pair.key.chmod(0o644)  # so that the container's user can read it
    for process in link_up(stage, pair):
        (warning,) = process.warnings
        assert str(pair.key) in warning
        assert "mode 0644" in warning


@pytest.mark.parametrize("command", ["hybrid gen-cert", "hybrid gen_cert"])
def test_a_pair_by_gen_cert_costs_none(command: str, stage: Stage) -> None:
    assert stage.ended(command).exit_code() == 0
    pair = Pair(stage.directory / "cluster.crt", stage.directory / "cluster.key")
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600
    assert [process.warnings for process in link_up(stage, pair)] == [[], []]

    again = stage.ended(command)
    assert again.exit_code() == 1
    assert "exists already, and is not overwritten" in again.log


def refusal(stage: Stage, command: str, pair: Pair) -> str:
    """What `fastgw COMMAND` says in its one line about *pair*, for which it ends with exit code 1."""
    settings = {"prefix": str(stage.directory / command), "admin_error_log": "/dev/stderr",
                "proxy_error_log": "/dev/stderr"} | pair.settings  # fmt: skip
    process = stage.ended(command, settings)
    return one_line(process)


def one_line(process: Process) -> str:
    assert process.exit_code() == 1, process.show()
    assert process.output == ""
    (line,) = process.log.splitlines()
    assert line.startswith("fastgw: ")
    return line


def stored(directory: Path, name: str, made: GeneratedPair) -> Pair:
    pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
    pair.certificate.write_bytes(made.certificate_pem)
    pair.key.write_bytes(made.key_pem)
    pair.key.chmod(0o600)
    return pair


def test_an_expired_one_ends_the_start_of_a_control_plane(stage: Stage) -> None:
    pair = stored(stage.directory, "old", make_pair(from_days=-2, until_days=-1))
    line = refusal(stage, "cp", pair)
    assert f"cluster_cert {pair.certificate}: the certificate expired on " in line


def test_an_expired_one_keeps_a_data_plane_from_its_link_and_not_from_serving(
    stage: Stage, pair: Pair, upstream: str
) -> None:
    control_plane = stage.control_plane(pair)
    control_plane.add_service("steady", upstream)
    control_plane.add_route("steady", "/steady")
    own = Pair(stage.directory / "own.crt", stage.directory / "own.key")
    shutil.copy(pair.certificate, own.certificate)
    shutil.copy(pair.key, own.key)
    data_plane = stage.data_plane(own, control_plane)
    data_plane.wait_answer("/steady/get")
    data_plane.stop()
    stored(stage.directory, "own", make_pair(from_days=-2, until_days=-1))
    data_plane.start()
    data_plane.wait_ready()
    assert data_plane.proxy.get("/steady/get").status_code == 200
    assert any(f"cluster_cert {own.certificate}: the certificate expired on " in warning
               for warning in data_plane.warnings)  # fmt: skip


@pytest.mark.parametrize("command", ["cp", "dp"])
class TestPairsThatCannotServe:
    def test_mismatched(self, command: str, stage: Stage) -> None:
        one = stored(stage.directory, "one", make_pair())
        other = stored(stage.directory, "other", make_pair())
        line = refusal(stage, command, Pair(one.certificate, other.key))
        assert str(other.key) in line
        assert str(one.certificate) in line
        assert "does not belong to" in line

    def test_missing(self, command: str, stage: Stage) -> None:
        pair = Pair(stage.directory / "none.crt", stage.directory / "none.key")
        line = refusal(stage, command, pair)
        assert f"{pair.certificate}: cannot be read: no such file" in line
        assert f"{pair.key}: cannot be read: no such file" in line

    def test_unreadable_for_a_user_that_is_not_root(
        self, command: str, stage: Stage, shared_directory: Path
    ) -> None:
        pair = stored(shared_directory, "cluster", gen_cert_pair())
        prefix = shared_directory / "prefix"
        prefix.mkdir()
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(prefix, user.pw_uid, user.pw_gid)
            ids = (user.pw_uid, user.pw_gid)
        else:
            pair.key.chmod(0)
            ids = (os.geteuid(), os.getegid())
        settings = {"prefix": str(prefix), "admin_error_log": "/dev/stderr",
                    "proxy_error_log": "/dev/stderr"} | pair.settings  # fmt: skip
        program, _, _, *words = fastgw(command, settings)
        as_user = AS_ANOTHER_USER if os.geteuid() == 0 else AS_ANOTHER_USER.replace("os.setgroups([]); ", "")
        process = stage.run(command, program, "-c", as_user, *map(str, ids), *words)
        line = one_line(process)
        assert f"{pair.key}: cannot be read for user id {ids[0]}: permission denied" in line
        assert str(pair.certificate) not in line


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """A directory that every user may enter, which those of pytest are not."""
    directory = Path(tempfile.mkdtemp(prefix="fastgw-scenario-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)
