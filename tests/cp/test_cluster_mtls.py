"""The modes pki and pki_check_cn on real sockets: refusals that both logs tell, and files changed under way."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.dp.sync import NodeIdentity
from fastgw.obs import logs
from fastgw.settings import Role
from fastgw.tls.cluster_files import FileCredentials
from fastgw.tls.keypair import KeyPair
from tests.cp.cluster_nodes import (
    Log,
    Node,
    cluster_port,
    eventually,
    node_id_that_prefers,
    offering_of,
    run,
    settings_of,
)
from tests.tls.authority import Authority, write_pair
from tests.tls.certificates import gen_cert_pair

CA = Authority("the CA")
CP = CA.issue("cp.example.com", "127.0.0.1")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def files(directory: Path, role: Role, pair: KeyPair, **flags: str) -> FileCredentials:
    """Credentials of files in a directory of their own, named after the role."""
    place = directory / role
    place.mkdir(exist_ok=True)
    write_pair(pair, place / "link.crt", place / "link.key")
    (place / "ca.crt").write_text(CA.pem)
    paths = {
        "cluster_cert": str(place / "link.crt"),
        "cluster_cert_key": str(place / "link.key"),
        "cluster_ca_cert": str(place / "ca.crt"),
    }
    settings = settings_of(role, directory, gen_cert_pair(), **{"cluster_mtls": "pki", **paths, **flags})
    told = logs.get_logger(role)
    return FileCredentials(settings, tell=told.notice, complain=told.warning)


def test_certificates_of_the_authority_link(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path, credentials=files(tmp_path, "control_plane", CP)) as port:
            port.hub.publish(offering_of(1, ["a"]))
            mine = CA.issue("dp-1.example.com", days=(-1, 3))
            node = Node(tmp_path, port.address, credentials=files(tmp_path, "data_plane", mine))
            async with node.running():
                await eventually(lambda: node.state.version == 1, "version 1")
                shown = await port.shown(node.id)
                assert shown["cert_details"] == {"expiry_timestamp": int(mine.not_after.timestamp())}

    run(scenario())


@pytest.mark.parametrize(
    ("pair", "flags", "told", "heard"),
    [
        (
            CA.issue("dp-1.example.org"),
            {"cluster_mtls": "pki_check_cn", "cluster_allowed_common_names": "dp-2.example.org"},
            "the peer's common name (dp-1.example.org) is not one of cluster_allowed_common_names",
            "the control plane answered 403: the peer's common name (dp-1.example.org) is not one of",
        ),
        (
            CA.issue("dp-1", days=(1, 2)),
            {},
            "the peer's certificate (CN=dp-1) is not valid yet: it is valid from",
            "compare the clocks of both machines",
        ),
        (
            Authority("stranger").issue("dp-1"),
            {},
            "was not issued by an authority that is trusted here",
            "the peer refuses our certificate: no authority in its cluster_ca_cert issued it",
        ),
    ],
)
def test_a_refusal_is_told_on_both_sides(
    tmp_path: Path, log: Log, pair: KeyPair, flags: dict[str, str], told: str, heard: str
) -> None:
    async def scenario() -> None:
        credentials = files(tmp_path, "control_plane", CA.issue("cp.example.com", "127.0.0.1"), **flags)
        async with cluster_port(tmp_path, credentials=credentials) as port:
            own = files(tmp_path, "data_plane", CA.issue("dp-0.example.com"))
            presents = pair.as_paths
            with presents() as paths:
                own.current().client_context.load_cert_chain(*paths)
            node = Node(tmp_path, port.address, credentials=own)
            async with node.running():
                refused = await log.shows("refused 127.0.0.1:")
                assert told in refused
                assert heard in await log.shows("no link to ")
            assert len(port.hub) == 0

    run(scenario())


def test_the_data_plane_refuses_another_control_plane_and_says_so(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path, credentials=files(tmp_path, "control_plane", CP)) as port:
            other = files(tmp_path, "data_plane", CA.issue("dp-1"), cluster_server_name="other.example.com")
            async with Node(tmp_path, port.address, credentials=other).running():
                line = await log.shows("no link to ")
                assert "the peer's certificate does not bear the name that was asked for" in line
                await log.shows("refused 127.0.0.1:")

    run(scenario())


def test_of_several_each_is_to_bear_the_name_by_which_it_is_dialled(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        named = files(tmp_path, "control_plane", CA.issue("localhost"))
        mine = files(tmp_path, "data_plane", CA.issue("dp-1"))
        async with (
            cluster_port(tmp_path / "a", credentials=named) as by_address,
            cluster_port(tmp_path / "b", credentials=named) as by_name,
        ):
            by_name.hub.publish(offering_of(1, ["a"]))
            addresses = (by_address.address, f"localhost:{by_name.address.rpartition(':')[2]}")
            identity = NodeIdentity(node_id_that_prefers(addresses), "dp-1")
            node = Node(tmp_path, ", ".join(addresses), credentials=mine, identity=identity)
            async with node.running():
                await eventually(lambda: node.state.version == 1, "version 1", 10)
                line = await log.shows(f"no link to {addresses[0]}: ")
                assert "does not bear the address that was asked for" in line
                assert node.sync.status.control_plane == addresses[1]

    run(scenario())


def test_files_changed_under_way_neither_drop_a_link_nor_need_a_restart(tmp_path: Path, log: Log) -> None:
    """The control plane's certificate and its authorities move to another CA while data planes are linked."""

    async def scenario() -> None:
        of_control_plane = files(tmp_path, "control_plane", CP)
        of_data_plane = files(tmp_path, "data_plane", CA.issue("dp-1"))
        newer_ca = Authority("the next CA")
        newer = newer_ca.issue("cp.example.com", "127.0.0.1")
        async with cluster_port(tmp_path, credentials=of_control_plane) as port:
            first = Node(tmp_path, port.address, credentials=of_data_plane)
            async with first.running():
                await eventually(lambda: len(port.hub) == 1, "the link")
                for place in ("control_plane", "data_plane"):
                    (tmp_path / place / "ca.crt").write_text(CA.pem + newer_ca.pem)
                write_pair(newer, tmp_path / "control_plane/link.crt", tmp_path / "control_plane/link.key")
                write_pair(
                    newer_ca.issue("dp-1"), tmp_path / "data_plane/link.crt", tmp_path / "data_plane/link.key"
                )
                of_control_plane.read_again()
                of_data_plane.read_again()
                async with Node(tmp_path, port.address, credentials=of_data_plane).running():
                    await eventually(lambda: len(port.hub) == 2, "a link of new certificates")
                port.hub.publish(offering_of(1, ["a"]))
                await eventually(lambda: first.state.version == 1, "version 1 on the old link")
                assert first.sync.status.last_error is None

    run(scenario())
