"""`fastgw check` and the options that all commands with settings share."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.cli.hybrid import write_pair
from fastgw.settings import PROPERTIES, load_settings
from tests.cli.running import fastgw_command


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("pair")
    write_pair(directory / "cluster.crt", directory / "cluster.key")
    return {
        "FASTGW_CLUSTER_CERT": str(directory / "cluster.crt"),
        "FASTGW_CLUSTER_CERT_KEY": str(directory / "cluster.key"),
    }


def test_good_settings_of_both_roles(pair: dict[str, str]) -> None:
    done = fastgw_command("check", **pair)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the settings of a control plane are well\nthe settings of a data plane are well\n"


def test_the_role_comes_from_the_settings_or_the_option(pair: dict[str, str]) -> None:
    assert (
        fastgw_command("check", KONG_ROLE="data_plane", **pair).stdout
        == "the settings of a data plane are well\n"
    )
    done = fastgw_command("check", "--role", "control_plane", **pair)
    assert done.stdout == "the settings of a control plane are well\n"
    done = fastgw_command("check", "--role", "control_plane", KONG_ROLE="data_plane", **pair)
    assert done.returncode == 1
    assert "contradicts this command" in done.stderr


def test_warnings_go_to_stderr_one_line_each(pair: dict[str, str]) -> None:
    done = fastgw_command(
        "check", "--role", "control_plane", KONG_ADMIN_LISTEN="0.0.0.0:8001", KONG_DNS_ORDER="x", **pair
    )
    assert done.returncode == 0
    assert [line.partition(": ")[2][:25] for line in done.stderr.splitlines()] == [
        "warning: taken from KONG_",
        "warning: properties of Ko",
        "warning: the Admin API on",
    ]


def test_faults_are_one_line_and_exit_code_1() -> None:
    done = fastgw_command("check", FASTGW_PG_PORT="x", FASTGW_LOG_LEVEL="y")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "FASTGW_PG_PORT" in line
    assert "FASTGW_LOG_LEVEL" in line


def test_a_missing_or_broken_pair_is_found(pair: dict[str, str], tmp_path: Path) -> None:
    assert "fastgw hybrid gen-cert" in fastgw_command("check").stderr
    nowhere = {**pair, "FASTGW_CLUSTER_CERT_KEY": str(tmp_path / "none.key")}
    done = fastgw_command("check", **nowhere)
    assert done.returncode == 1
    assert "none.key" in done.stderr


def test_tokens_that_are_none_are_found(pair: dict[str, str], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("alice:short\n")
    done = fastgw_command("check", "--role", "control_plane", FASTGW_ADMIN_TOKEN_FILE=str(tokens), **pair)
    assert done.returncode == 1
    assert "tokens, line 1: expected name:token" in done.stderr


def test_a_declarative_file_is_read_and_needs_no_pair(tmp_path: Path) -> None:
    path = tmp_path / "kong.yml"
    path.write_text("_format_version: '3.0'\nservices:\n- name: a\n  url: http://127.0.0.1:80\n")
    done = fastgw_command("check", "--role", "data_plane", FASTGW_DECLARATIVE_CONFIG=str(path))
    assert (done.returncode, done.stderr) == (0, "")
    path.write_text("_format_version: '3.0'\nservices:\n- name: a\n")
    done = fastgw_command("check", "--role", "data_plane", FASTGW_DECLARATIVE_CONFIG=str(path))
    assert done.returncode == 1
    assert str(path) in done.stderr


def test_the_list_is_a_file_to_start_from(tmp_path: Path) -> None:
    listed = fastgw_command("check", "--list").stdout
    conf = tmp_path / "fastgw.conf"
    conf.write_text(
        "".join(line.removeprefix("#") + "\n" if " = " in line else "" for line in listed.splitlines())
    )
    settings = load_settings("control_plane", file=conf, environ={})
    assert settings.warnings == ()
    assert all(f"#{item.name} =" in listed for item in PROPERTIES)


def test_conf_prefix_and_set(pair: dict[str, str], tmp_path: Path) -> None:
    conf = tmp_path / "my.conf"
    conf.write_text("pg_port = 1\n")
    assert fastgw_command("check", "-c", str(conf), **pair).returncode == 0
    assert fastgw_command("check", "--set", "pg_port=2", "--set", "PG_USER = me", **pair).returncode == 0
    for args, message in [
        (["--set", "pg_port=x"], "flag --set pg_port: pg_port: 'x' is not a whole number"),
        (["--set", "port=1"], "there is no property 'port'"),
        (["--conf", str(tmp_path / "none")], "no such file or directory"),
    ]:
        done = fastgw_command("check", *args, **pair)
        assert done.returncode == 1
        assert message in done.stderr
    done = fastgw_command("check", "--set", "pg_port", **pair)
    assert done.returncode == 2
    assert "'pg_port' is not NAME=VALUE" in done.stderr
