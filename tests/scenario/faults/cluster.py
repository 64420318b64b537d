"""A cluster under a fault: its processes, a wire to each data plane, traffic, writes, and the one check of all tests.

    with running_cluster(stage, pair, upstream) as cluster:
        ...                                  # the fault, and its end
        cluster.check()

`check` holds after every fault: all nodes come to the same digest within the bound, no request has failed on any
data plane that ran, nothing that was answered 2xx is lost, and no version has stood for two configurations.
"""

from __future__ import annotations

import base64
import contextlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.postgres import PgDatabase, PgServer
from tests.scenario.faults.wire import Wire
from tests.scenario.faults.writer import SERVICE, Writer
from tests.scenario.harness import Pair, Stage
from tests.scenario.load import Load
from tests.scenario.nodes import ControlPlane, DataPlane
from tests.scenario.process import HOST
from tests.scenario.upstream import say
from tests.waiting import wait_until

VISIBLE_S: Final = 30.0
"""From the end of a fault that both sides see until all nodes are at the same digest: the promise."""
SILENT_S: Final = 80.0
"""The same from the beginning of a fault that neither side sees."""
FAT_BYTES: Final = 1_000_000
"""Of what `Cluster.fatten` writes, at least so much is left when it is packed."""

_FAT_SERVICES: Final = 20
_TAGS: Final = 35
_TAG_BYTES: Final = 1500
_PATH: Final = "/steady"
_BODY: Final = "steady"
_EVERY_S: Final = 0.05
_ANSWERS: Final = 20
_APPLIED: Final = re.compile(
    r"(?:applied|published|starts from disk with) version (\d+), digest ([0-9a-f]{32})"
)


class Cluster:
    """What a test of a fault works with."""

    def __init__(
        self,
        stage: Stage,
        control_planes: Sequence[ControlPlane],
        data_planes: Sequence[DataPlane],
        wires: Sequence[Wire],
    ) -> None:
        self.stage: Final = stage
        self.control_planes: Final = list(control_planes)
        self.data_planes: Final = list(data_planes)
        self.wires: Final = list(wires)
        """One for each data plane."""
        self.loads = [
            Load(data_plane.proxy_port, _PATH, expect=_BODY.encode(), every_s=_EVERY_S)
            for data_plane in data_planes
        ]
        self.writer = Writer([control_plane.admin_port for control_plane in control_planes])
        self._fat: list[list[str]] = []

    @property
    def control_plane(self) -> ControlPlane:
        return self.control_planes[0]

    def fatten(self, seed: int) -> int:
        """Write what travels whole, in several chunks, and not as a delta; returns the version."""
        draw = random.Random(seed)
        tags = [
            [base64.urlsafe_b64encode(draw.randbytes(_TAG_BYTES)).decode() for _ in range(_TAGS)]
            for _ in range(_FAT_SERVICES)
        ]
        operations = [
            {"method": "PUT", "path": f"/services/fat-{number}", "body": {"host": "h", "tags": of_one}}
            for number, of_one in enumerate(tags)
        ]
        answer = self.control_plane.admin.post("/fastgw/transaction", json={"operations": operations})
        version = int(self.control_plane.expect(200, answer)["version"])
        self._fat = tags
        return version

    def published(self) -> tuple[int, str]:
        """Version and hash of what the first control plane publishes."""
        shown = self._publication(self.control_plane)
        return shown["version"], shown["config_hash"]

    def restart(self, data_plane: DataPlane) -> None:
        """Start a data plane that was ended."""
        data_plane.start()
        data_plane.wait_ready()

    def wait_linked(self, deadline_s: float = VISIBLE_S) -> None:
        """Wait until every data plane has its link."""
        for data_plane in self.data_planes:
            data_plane.wait_connected(deadline_s)

    def wait_current(self, data_plane: DataPlane, deadline_s: float = VISIBLE_S) -> int:
        """Wait until a data plane runs what is published now, or something later; returns the version."""
        version, _ = self.published()

        def applied() -> int:
            found: int = (data_plane.status()["applied"] or {"version": -1})["version"]
            return found if found >= version else 0

        return wait_until(applied, deadline_s, f"{data_plane.name} is at version {version}")

    def wait_same(self, deadline_s: float = VISIBLE_S) -> None:
        """Wait until all nodes are at the same digest, and say so of each other."""
        last: dict[str, Any] = {}

        def is_same() -> bool:
            last.clear()
            last.update(self._standing())
            return len({repr(stands) for stands in last.values()}) == 1

        try:
            wait_until(is_same, deadline_s, "all nodes are at the same digest")
        except AssertionError as error:
            shown = "\n".join(f"{name}: {stands}" for name, stands in last.items())
            raise AssertionError(f"{error}\n{shown}") from None

    def check(self, deadline_s: float = VISIBLE_S) -> None:
        """Hold the cluster to what is promised for after a fault, which is over."""
        self.writer.stop()
        self.wait_same(deadline_s)
        for load in self.loads:
            load.wait_answers(_ANSWERS)
            load.assert_nothing_failed()
        assert self.writer.answered_total > 0
        for control_plane in self.control_planes:
            self.writer.assert_kept(_routes(control_plane))
            for number in {0, len(self._fat) - 1} if self._fat else ():
                shown = control_plane.expect(200, control_plane.admin.get(f"/services/fat-{number}"))
                assert sorted(shown["tags"]) == sorted(self._fat[number])
        for data_plane in self.data_planes:
            for name in self.writer.present()[-2:]:
                assert data_plane.proxy.get(f"/{name}").text == _BODY
            for name in self.writer.removed()[-1:]:
                assert data_plane.proxy.get(f"/{name}").status_code == 404
        self._check_versions()

    def _standing(self) -> Iterator[tuple[str, Any]]:
        """Where each node stands, as itself and as the others say."""
        for control_plane in self.control_planes:
            try:
                shown = self._publication(control_plane)
                rows = {row["id"]: row for row in _pages(control_plane, "/clustering/data-planes")}
            except Exception as error:  # it starts, or its database does
                yield control_plane.name, repr(error)
                continue
            assert shown["refused"] is None, shown
            yield control_plane.name, (shown["version"], shown["config_hash"])
            for data_plane in self.data_planes:
                row = rows.get(data_plane.node_id, {})
                stands: Any = row
                if row.get("connected") and row["last_error"] is None and row["wanted_version"] is not None:
                    stands = (row["applied_version"], row["config_hash"])
                yield f"{data_plane.name} as {control_plane.name} says", stands
                yield (
                    f"wanted of {data_plane.name} by {control_plane.name}",
                    (
                        row.get("wanted_version"),
                        row.get("config_hash"),
                    ),
                )
        for data_plane in self.data_planes:
            status = data_plane.status()
            applied, link = status["applied"] or {}, status["link"]
            is_well = link["is_connected"] and applied
            yield data_plane.name, (applied["version"], applied["digest"][:32]) if is_well else link

    @staticmethod
    def _publication(control_plane: ControlPlane) -> dict[str, Any]:
        shown: dict[str, Any] = control_plane.admin.get("/status").json()["fastgw"]["publication"]
        return shown

    def _check_versions(self) -> None:
        """No number was used twice: not in the journal, not for two digests, and none was applied after a later."""
        version, _ = self.published()
        journal = _pages(self.control_plane, "/fastgw/history/versions")
        numbers = [row["version"] for row in journal]
        assert numbers == list(range(version, version - len(numbers), -1))
        digests: dict[int, str] = {}
        for node in (*self.control_planes, *self.data_planes):
            for number, digest in _APPLIED.findall(node.all_logs):
                known = digests.setdefault(int(number), digest)
                assert known == digest, f"version {number} is {known} and {digest}"
            applied = [int(number) for number in re.findall(r" applied version (\d+), ", node.log)]
            assert applied == sorted(set(applied)), f"{node.name} applied {applied}"


def _routes(control_plane: ControlPlane) -> dict[str, list[str] | None]:
    return {row["name"]: row["tags"] for row in _pages(control_plane, "/routes")}


def _pages(control_plane: ControlPlane, path: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    following: str | None = f"{path}?size=1000"
    while following:
        page = control_plane.expect(200, control_plane.admin.get(following))
        rows += page["data"]
        following = page["next"]
    return rows


@contextlib.contextmanager
def running_cluster(
    stage: Stage,
    pair: Pair | None,
    upstream: str,
    *,
    storage: Mapping[str, str] | None = None,
    control_planes: int = 1,
    data_plane_settings: Sequence[Mapping[str, str]] = ({}, {}),
    wrappers: Mapping[str, Sequence[str]] | None = None,
    **settings: str,
) -> Iterator[Cluster]:
    """Start control planes, a data plane for each entry of *data_plane_settings*, and what flows between them.

    Args:
        settings: of the control planes.
        wrappers: commands that run the nodes of these names.
    """
    names = ["cp" if number == 0 else f"cp-{number + 1}" for number in range(control_planes)]
    wrappers = wrappers or {}
    planes = [
        stage.control_plane(pair, storage, name=name, wrapper=wrappers.get(name, ()), **settings)
        for name in names
    ]
    planes[0].add_service(SERVICE, upstream + say(_BODY))
    planes[0].add_route(SERVICE, _PATH, name="steady")
    with contextlib.ExitStack() as open_:
        data_planes, wires = [], []
        for number, of_one in enumerate(data_plane_settings):
            control_plane = planes[number % control_planes]
            wire = open_.enter_context(Wire(control_plane.cluster_port))
            chosen = {"cluster_control_plane": f"{HOST}:{wire.port}", **of_one}
            name = f"dp-{number + 1}"
            data_planes.append(
                stage.data_plane(
                    pair,
                    control_plane,
                    name=name,
                    wait=False,
                    wrapper=wrappers.get(name, ()),
                    **chosen,
                )
            )
            wires.append(wire)
        for data_plane in data_planes:
            data_plane.wait_ready()
            data_plane.wait_answer(_PATH)
        cluster = Cluster(stage, planes, data_planes, wires)
        for load in cluster.loads:
            open_.enter_context(load)
        open_.enter_context(cluster.writer)
        yield cluster


def prepared_database(stage: Stage, server: PgServer) -> PgDatabase:
    """A database of a server that a test stops and starts, ready for control planes."""
    server.start()
    database = server.create_database()
    assert stage.ended("migrations bootstrap", database.properties).exit_code() == 0
    return database
