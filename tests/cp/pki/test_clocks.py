"""The authority while the control plane's clock is wrong, and after it was set right."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path

import pytest

from fastgw.dp import enrolment
from fastgw.errors import CertificateError, FastgwError
from fastgw.tls.authority import NodeKey
from tests.cp.cluster_nodes import Log, eventually, offering_of, run
from tests.cp.pki.cluster import Clock, cluster

AHEAD = [
    dt.timedelta(hours=2),
    dt.timedelta(days=400),
    dt.timedelta(days=365 * 30),
    dt.timedelta(days=-365 * 30),
]
NODE = "3f8e2b50-0000-4000-8000-000000000001"


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@pytest.mark.parametrize("ahead", AHEAD, ids=["hours", "a year", "decades", "decades back"])
def test_a_wrong_clock_leaves_nothing_behind(tmp_path: Path, log: Log, ahead: dt.timedelta) -> None:
    """Whatever was issued by it is not taken; with the right one the same nodes link, join and renew."""

    async def scenario() -> None:
        clock = Clock()
        async with cluster(tmp_path, clock=clock) as one:
            one.hub.publish(offering_of(1, ["a"]))
            member = one.member("dp-1", await one.token())
            async with member.running():
                await eventually(lambda: member.node.state.version == 1, "version 1")
                token, key = await one.token(valid_s=86_400), NodeKey()

                clock.ahead = ahead
                # As often as it looks, it goes on.
                for _ in range(2):
                    with contextlib.suppress(CertificateError):
                        await one.office.look()
                with pytest.raises(FastgwError, match="the clock here says"):
                    await member.membership.renew()
                with pytest.raises(FastgwError, match=r"the clock here says|by the control plane's clock"):
                    await enrolment.join(one.address, token, node_id=NODE, name="dp-2", key=key)
                assert member.node.sync.status.is_connected

                clock.ahead = dt.timedelta()
                await one.office.look()
                await member.membership.renew()
                await enrolment.join(one.address, token, node_id=NODE, name="dp-2", key=key)
            again = one.member("dp-1", None, member.id)
            async with again.running():
                await eventually(lambda: again.node.sync.status.is_connected, "the link")

    run(scenario())
