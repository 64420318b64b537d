"""The data plane is killed while it stores: before each step on the disk, by a library that it is made to load."""

from __future__ import annotations

import signal
from typing import Final

import pytest

from tests.scenario.faults.cluster import running_cluster
from tests.scenario.faults.preload import build, preloaded
from tests.scenario.harness import Pair, Stage

DECIDED: Final = "rename current.image\nfsync dp"
"""The first step after the decision."""
WHOLE: Final = ["open base-", "sendfile base-", "fsync base-", "rename base-", "link current.image.new",
                "link previous.image.new", "rename previous.image", "rename current.image", DECIDED]  # fmt: skip
"""The steps of a whole generation, in their order."""
OVERLAY: Final = ["open current.image.new", "sendfile current.image.new", "fsync current.image.new",
                  "link previous.image.new", "rename previous.image", "rename current.image", DECIDED]  # fmt: skip
"""Those of an overlay, whose base is there."""


@pytest.mark.parametrize(
    ("whole", "overlay"),
    [
        (["sendfile base-", "link current.image.new"], ["rename current.image", DECIDED]),
        pytest.param(WHOLE, OVERLAY, marks=[pytest.mark.long, pytest.mark.timeout(400)]),
    ],
    ids=["some", "each"],
)
def test_killed_while_it_stores(
    stage: Stage, pair: Pair, upstream: str, whole: list[str], overlay: list[str]
) -> None:
    """It starts with what was decided last, sets nothing aside, and is brought to what is published."""
    at = stage.directory / "kill-at"
    wrapper = preloaded(
        build("kill_at_step", stage.directory),
        KILL_AT=str(at),
        KILL_DIRECTORY=str(stage.directory / "dp-1" / "dp"),
    )
    with running_cluster(stage, pair, upstream, wrappers={"dp-1": wrapper}) as cluster:
        data_plane, load = cluster.data_planes[0], cluster.loads[0]
        for number, step in enumerate([*whole, *overlay]):
            before = cluster.wait_current(data_plane)
            with load.away():
                fresh = at.with_name("kill-at.new")
                fresh.write_text(step)
                fresh.rename(at)
                if number < len(whole):
                    cluster.fatten(number)
                # Else the writer's next change is stored, as an overlay.
                data_plane.wait_ended(signal.SIGKILL)
                assert not at.exists()
                cluster.restart(data_plane)
            started = int(data_plane.wait_line(r"starts from disk with version (\d+)")[1])
            assert started >= before
            assert "cannot be used" not in data_plane.log
        assert started > before, "the last one was killed after the decision"
        cluster.check()
        left = sorted(path.name for path in (data_plane.prefix / "dp").glob("*.new"))
        assert left == []
