"""The cluster's own authority, as docs/pki.md walks through it: joined, served, renewed, revoked."""

from __future__ import annotations

import json
import signal
import stat

from tests.scenario.harness import Stage
from tests.scenario.nodes import ControlPlane, DataPlane
from tests.scenario.process import HOST, SERVED_S


def pki(stage: Stage, command: str, *args: str, prefix: str = "cp", **environ: str) -> str:
    """What `fastgw pki COMMAND` prints."""
    place = str(stage.directory / prefix)
    process = stage.ended(f"pki {command}", {"prefix": place}, *args, environ=environ)
    assert process.exit_code() == 0, process.show()
    return process.output.strip()


def control_plane_of(stage: Stage) -> ControlPlane:
    assert "made the authority" in pki(stage, "init")
    return stage.control_plane(None, cluster_mtls="pki")


def joined(stage: Stage, control_plane: ControlPlane, name: str) -> DataPlane:
    token = stage.directory / f"{name}.token"
    token.write_text(pki(stage, "token"))
    address = f"{HOST}:{control_plane.cluster_port}"
    wanted = ("--control-plane", address, "--name", name)
    said = pki(stage, "join", *wanted, prefix=name, FASTGW_CLUSTER_TOKEN_FILE=str(token))
    assert said.startswith("joined the cluster ")
    identity = stage.directory / name / "pki/identity.json"
    assert stat.S_IMODE(identity.stat().st_mode) == 0o600
    return stage.data_plane(None, control_plane, name=name, cluster_mtls="pki")


def test_join_serve_renew_revoke(stage: Stage) -> None:
    control_plane = control_plane_of(stage)
    control_plane.add_service("echo", stage.upstream())
    control_plane.add_route("echo", "/echo")
    by_command = joined(stage, control_plane, "dp-1")
    by_setting = stage.data_plane(
        None,
        control_plane,
        name="dp-2",
        cluster_mtls="pki",
        cluster_token=pki(stage, "token", "--name", "dp-2"),
    )
    by_setting.wait_line("joined the cluster")
    for data_plane in (by_command, by_setting):
        data_plane.wait_answer("/echo/get")
        assert data_plane.warnings == []

    # By themselves when two thirds of the time are over (tests/cp/pki), or now.
    by_command.send(signal.SIGHUP)
    by_command.wait_line("renewed the certificate of the link")
    assert "no link to" not in by_command.log
    assert control_plane.warnings == []
    listed = pki(stage, "list")
    assert f"dp-2 ({by_setting.node_id})" in listed

    said = pki(stage, "revoke", by_command.node_id)
    assert "of dp-1" in said
    by_command.wait_line("no link to .*: the control plane ended the link: its certificate .* is revoked", 5)
    control_plane.wait_line(r"refused 127\.0\.0\.1:\d+: the peer's certificate \(dp-1, .*\) is revoked", 15)
    by_command.wait_line("answered 403: the peer's certificate .* is revoked", 15)
    # What it runs it goes on serving.
    by_command.wait_answer("/echo/get")
    assert by_setting.is_connected


def test_only_signed_configurations_are_served_and_keys_change(stage: Stage) -> None:
    """Also by a data plane that starts with no control plane in sight, and by one that names keys itself."""
    control_plane = control_plane_of(stage)
    control_plane.wait_line("configurations are signed by [0-9a-f]{16}$")
    control_plane.add_service("echo", stage.upstream())
    control_plane.add_route("echo", "/one")
    data_plane = joined(stage, control_plane, "dp-1")
    data_plane.wait_answer("/one/get")

    said = pki(stage, "signing rotate")
    assert ", endorsed by " in said
    control_plane.wait_line("configurations are signed by [0-9a-f]{16}, [0-9a-f]{16}$")
    data_plane.send(signal.SIGHUP)
    data_plane.wait_line("renewed the certificate of the link")
    assert "signs no longer" in pki(stage, "signing rotate", "--finish")
    newer = said.partition(" ")[0]
    control_plane.wait_line(f"configurations are signed by {newer}$")
    data_plane.send(signal.SIGHUP)
    kept = data_plane.prefix / "dp/signatures.json"
    # The configuration has not changed; what the disk holds must outlive the key that signed it first.
    data_plane.wait_for(
        lambda: [one["key_id"] for one in json.loads(kept.read_text())[0]["signatures"]] == [newer],
        SERVED_S,
        "the signature by the newer key alone",
    )

    data_plane.stop()
    control_plane.stop()
    data_plane.start()
    data_plane.wait_ready()
    data_plane.wait_answer("/one/get")
    assert "starts from disk with version 2" in data_plane.log

    data_plane.stop()
    kept.write_text("[]")
    data_plane.start()
    data_plane.wait_line("current.image cannot be used: its signature is not kept")
    control_plane.start()
    data_plane.wait_ready()
    control_plane.add_route("echo", "/two")
    data_plane.wait_answer("/two/get")


def test_a_data_plane_that_names_keys_takes_nothing_else(stage: Stage) -> None:
    control_plane = control_plane_of(stage)
    control_plane.add_service("echo", "http://127.0.0.1:9")
    another = pki(stage, "init", prefix="another") and pki(stage, "signing list", prefix="another")
    assert another.startswith("ed25519:")
    said = pki(stage, "join", "--control-plane", f"{HOST}:{control_plane.cluster_port}", "--token",
               pki(stage, "token"), prefix="dp")  # fmt: skip
    assert said.startswith("joined")
    data_plane = stage.data_plane(
        None, control_plane, cluster_mtls="pki", cluster_signing_keys=another, wait=False
    )
    told = data_plane.wait_line(
        r"refused version \d, .*: the configuration is signed by (.{16}), and this data plane"
    )
    control_plane.wait_line(rf"version \d is refused: the configuration is signed by {told[1]}")


def test_what_cannot_serve_is_one_line(stage: Stage) -> None:
    no_authority = stage.ended("cp", {"prefix": str(stage.directory / "empty"), "cluster_mtls": "pki",
                                      "admin_error_log": "/dev/stderr"})  # fmt: skip
    assert no_authority.exit_code() == 1
    assert "the cluster has no authority yet: 'fastgw pki init' makes it" in no_authority.log
    no_identity = stage.ended("dp", {"prefix": str(stage.directory / "dp"), "cluster_mtls": "pki",
                                     "proxy_error_log": "/dev/stderr"})  # fmt: skip
    assert no_identity.exit_code() == 1
    assert "join with 'fastgw pki join', set cluster_token, or name cluster_cert" in no_identity.log
    no_token = stage.ended(
        "pki join", {"prefix": str(stage.directory / "dp")}, "--control-plane", "localhost:1"
    )
    assert no_token.exit_code() == 2
    assert "a token is needed" in no_token.log


def test_issued_files_serve_where_joining_is_not_possible(stage: Stage) -> None:
    """As for a node of Kong: a pair and the authorities in files."""
    control_plane = control_plane_of(stage)
    pki(stage, "issue", "kong-1", "--out", str(stage.directory))
    paths = {name: stage.directory / name for name in ("kong-1.crt", "kong-1.key", "ca.crt")}
    assert stat.S_IMODE(paths["kong-1.key"].stat().st_mode) == 0o600
    data_plane = stage.data_plane(
        None,
        control_plane,
        cluster_mtls="pki",
        cluster_cert=str(paths["kong-1.crt"]),
        cluster_cert_key=str(paths["kong-1.key"]),
        cluster_ca_cert=str(paths["ca.crt"]),
        cluster_server_name="control-plane.fastgw.internal",
    )
    data_plane.wait_connected()
