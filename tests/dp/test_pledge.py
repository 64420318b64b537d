"""The cluster that a data plane belongs to: kept, compared, and changed by people only."""

from __future__ import annotations

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastgw.dp.incoming import Applied, Refused
from fastgw.dp.pledge import Pledge
from fastgw.errors import ForeignClusterError, SettingsError
from tests.dp.node import routed, run, running_node


def test_the_first_cluster_is_kept(tmp_path: Path) -> None:
    pledge = Pledge(tmp_path)
    assert pledge.read() == ""
    pledge.check("one")
    pledge.keep("")
    assert not pledge.path.exists()
    pledge.keep("one")
    pledge.keep("two")
    assert Pledge(tmp_path).read() == "one"
    assert stat.S_IMODE(pledge.path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.id"]


def test_another_one_is_refused_with_what_to_do(tmp_path: Path) -> None:
    pledge = Pledge(tmp_path)
    pledge.keep("one")
    pledge.check("one")
    pledge.check("")
    with pytest.raises(
        ForeignClusterError, match=r"of the cluster two, .* belongs to one.*'fastgw cluster adopt two' here"
    ):
        pledge.check("two")


def test_who_keeps_it_twice_at_once_keeps_it_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            pledge = Pledge(tmp_path / str(number))
            list(pool.map(pledge.keep, [f"cluster-{one}" for one in range(8)]))
            assert re.fullmatch(r"cluster-\d", pledge.read())


def test_a_person_changes_it(tmp_path: Path) -> None:
    pledge = Pledge(tmp_path / "dp")
    assert pledge.replace("two") == ""
    pledge.check("two")
    assert pledge.replace("") == "two"
    assert pledge.replace("") == ""
    pledge.check("three")


def test_a_file_that_cannot_be_read_is_no_permission(tmp_path: Path) -> None:
    pledge = Pledge(tmp_path)
    pledge.path.mkdir()
    with pytest.raises(SettingsError, match="cannot be read: is a directory"):
        pledge.check("one")
    with pytest.raises(SettingsError, match="cannot be read"):
        pledge.replace("one")


def test_what_is_applied_pledges_and_what_is_foreign_is_not_applied(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            kongs = routed(1, "/kongs")
            assert isinstance(await node.apply(kongs), Applied)
            assert node.supervisor.pledge.read() == ""
            assert isinstance(await node.apply(routed(5, "/one")._replace(cluster_id="one")), Applied)
            assert node.supervisor.pledge.read() == "one"
            foreign = await node.apply(routed(6, "/two")._replace(cluster_id="two"))
            assert isinstance(foreign, Refused)
            assert foreign.is_passing
            assert "belongs to one" in str(foreign.faults)
            assert node.supervisor.state().version == 5
            assert "goes back" not in node.log()
            assert isinstance(await node.apply(routed(4, "/three")._replace(cluster_id="one")), Applied)
            assert "goes back from version 5 to version 4, as the control plane wants" in node.log()

    run(test())
