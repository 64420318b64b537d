"""`/fastgw/rollout`: a version first on some data planes; started, looked at, promoted and aborted.

    GET  /fastgw/rollout            the one that runs, or else the one that ended last
    POST /fastgw/rollout            start one: `labels` or `share`, limits, and perhaps `config`
    POST /fastgw/rollout/promote    have all run what the chosen run
    POST /fastgw/rollout/abort      go back to the version before it
    GET  /fastgw/rollout/wait       answers when it is over, at the latest after `timeout`
    GET  /fastgw/rollouts           the newest, newest first; /fastgw/rollouts/{id} is one

With `config`, a declarative document as text, the start and what it writes are one transaction. The document
is looked at first as `/fastgw/plan` does: what would change nothing, would not be published, or would be
refused by a data plane, is refused here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.clustering import ClusterView
from fastgw.cp.admin.config import refusal, refused_plugins, version_tag
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.hooks import Hooks
from fastgw.cp.admin.paging import page_request
from fastgw.cp.admin.plan import judge_data_planes, what_stands
from fastgw.cp.admin.rows import matches
from fastgw.cp.documents.jobs import Base
from fastgw.cp.documents.process import plan_document, read_rows
from fastgw.cp.rollout.conductor import Conductor, Contents, Order
from fastgw.cp.rollout.record import LONGEST_HOLD_S, LONGEST_TIMEOUT_S, Limits
from fastgw.cp.rollout.states import RolloutInput
from fastgw.cp.storage.contract import Storage
from fastgw.errors import DeclarativeError, RolloutError
from fastgw.settings import Settings

LONGEST_WAIT_S: Final = 300.0
_MOST_LABELS: Final = 64
_MOST_REQUESTS: Final = 10**9
_SECONDS: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")
_NAMED_REASONS: Final = 5


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    labels: dict[str, str] = {}
    share: float | None = None
    hold_s: float = Limits().hold_s
    timeout_s: float = Limits().timeout_s
    max_5xx_rise: float = Limits().max_5xx_rise
    min_requests: int = Limits().min_requests
    config: str | None = None
    mode: str = "replace"


class _Rollouts:
    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        hooks: Mapping[str, Hooks],
        cluster_view: ClusterView,
        rollouts: Conductor,
    ) -> None:
        self._storage = storage
        self._settings = settings
        self._hooks = hooks
        self._cluster_view = cluster_view
        self._rollouts = rollouts
        self._one_at_a_time = asyncio.Lock()

    async def read(self, _call: Call) -> Response:
        rollout = await self._rollouts.find()
        if rollout is None:
            raise answers.message(404, "There has been no rollout yet")
        return json_response(await self._rollouts.shown(rollout))

    async def read_one(self, call: Call) -> Response:
        rollout = await self._rollouts.find(call.captured[0])
        if rollout is None:
            raise _unknown(call.captured[0])
        return json_response(await self._rollouts.shown(rollout))

    async def newest(self, call: Call) -> Response:
        size = page_request({"size": call.arguments.get("size")}).size
        found = await self._rollouts.list_newest(size)
        return json_response({"data": [rollout.shown() for rollout in found], "next": None})

    async def start(self, call: Call) -> Response:
        asked = _asked(call)
        if self._one_at_a_time.locked():
            raise answers.message(429, "Another rollout is being started")
        async with self._one_at_a_time:
            order = Order(
                asked.labels,
                asked.share,
                Limits(
                    hold_s=asked.hold_s,
                    timeout_s=asked.timeout_s,
                    max_5xx_rise=asked.max_5xx_rise,
                    min_requests=asked.min_requests,
                ),
            )
            contents = None
            if asked.config is not None:
                await self._check(order)
                contents = await self._contents(call, asked, asked.config.encode("utf-8", "surrogateescape"))

            def check(stands: int) -> None:
                if call.if_match is not None and not matches(call.if_match, version_tag(stands)):
                    raise answers.precondition_failed("the configuration")

            try:
                rollout = await self._rollouts.start(order, call.actor, contents=contents, check=check)
            except RolloutError as error:
                raise answers.message(409, str(error)) from None
        return json_response(await self._rollouts.shown(rollout), 201)

    async def _check(self, order: Order) -> None:
        """Refuse at once what needs no look at the document."""
        try:
            await self._rollouts.check(order)
        except RolloutError as error:
            raise answers.message(409, str(error)) from None

    async def promote(self, call: Call) -> Response:
        return await self._end(call, RolloutInput.PROMOTE)

    async def abort(self, call: Call) -> Response:
        return await self._end(call, RolloutInput.ABORT)

    async def wait(self, call: Call) -> Response:
        timeout = call.arguments.get("timeout", "30")
        if not (isinstance(timeout, str) and _SECONDS.fullmatch(timeout)):
            raise answers.message(400, f"timeout: {timeout!r} is no number of seconds")
        id_ = call.arguments.get("id")
        if id_ is None:
            newest = await self._rollouts.find()
            if newest is None:
                raise answers.message(404, "There has been no rollout yet")
            id_ = newest.id
        rollout = await self._rollouts.wait_over(str(id_), min(float(timeout), LONGEST_WAIT_S))
        if rollout is None:
            raise _unknown(str(id_))
        return json_response(await self._rollouts.shown(rollout))

    async def _end(self, call: Call, signal: RolloutInput) -> Response:
        document = call.body.json if call.body.json is not None else dict(call.body.pairs)
        id_ = document.get("id")
        if set(document) - {"id"} or not (id_ is None or isinstance(id_, str)):
            raise answers.message(400, "expected nothing, or the id of the rollout: {'id': '...'}")
        try:
            rollout = await self._rollouts.end(signal, call.actor, id_)
        except RolloutError as error:
            raise answers.message(409, str(error)) from None
        return json_response(rollout.shown())

    async def _contents(self, call: Call, asked: _Asked, content: bytes) -> Contents:
        """The rows of the document, once nothing is known that speaks against it."""
        is_json = content.lstrip()[:1] == b"{"
        refused, flavor = refused_plugins(self._hooks), self._settings.router_flavor
        stands = await what_stands(self._storage, self._cluster_view)
        base = Base(stands.version, await asyncio.to_thread(stands.pack), asked.mode == "replace")
        try:
            planned = await plan_document(
                content, is_json=is_json, refused_plugins=refused, flavor=flavor, base=base
            )
            counts = planned.counts
            if not (counts["created"] or counts["updated"] or counts["deleted"]):
                raise answers.message(
                    409, f"nothing would change: version {stands.version} holds what the document says"
                )
            against = [
                f"{' '.join(fault[key] for key in ('entity', 'id', 'field') if fault.get(key))}:"
                f" {fault.get('reason', '')}"
                for fault in planned.faults
            ]
            for judged in judge_data_planes(planned, self._cluster_view.capabilities()):
                against += [f"data plane {judged['hostname']}: {reason}" for reason in judged["refuses"]]
            if against:
                more = len(against) - _NAMED_REASONS
                named = "; ".join([*against[:_NAMED_REASONS], *([f"and {more} more"] if more > 0 else [])])
                raise answers.message(400, f"the document would not be published or applied: {named}")
            rows = await read_rows(content, is_json=is_json, refused_plugins=refused, flavor=flavor)
        except DeclarativeError as error:
            raise refusal(error, call) from None
        return Contents(rows, asked.mode == "replace")


def _asked(call: Call) -> _Asked:
    try:
        asked = msgspec.convert(call.body.json if call.body.json is not None else {}, _Asked)
    except msgspec.ValidationError as error:
        raise answers.message(400, f"a rollout cannot be started so: {error}") from None
    faults = [
        ("labels or share must say who is chosen", not asked.labels and asked.share is None),
        (f"labels are at most {_MOST_LABELS}", len(asked.labels) > _MOST_LABELS),
        ("share must be above 0 and at most 1", asked.share is not None and not 0 < asked.share <= 1),
        (f"hold_s must be from 0 to {LONGEST_HOLD_S:g}", not 0 <= asked.hold_s <= LONGEST_HOLD_S),
        (f"timeout_s must be from 1 to {LONGEST_TIMEOUT_S:g}", not 1 <= asked.timeout_s <= LONGEST_TIMEOUT_S),
        ("max_5xx_rise must be from 0 to 1", not 0 <= asked.max_5xx_rise <= 1),
        (f"min_requests must be from 1 to {_MOST_REQUESTS}", not 1 <= asked.min_requests <= _MOST_REQUESTS),
        ("mode must be one of replace, merge", asked.mode not in ("replace", "merge")),
    ]
    found = [text for text, is_fault in faults if is_fault]
    if found:
        raise answers.message(400, f"a rollout cannot be started so: {'; '.join(found)}")
    return asked


def _unknown(id_: str) -> answers.Answer:
    return answers.message(404, f"there is no rollout {id_}, or it is not kept any more")


def rollout_resources(
    storage: Storage,
    settings: Settings,
    hooks: Mapping[str, Hooks],
    cluster_view: ClusterView,
    rollouts: Conductor,
) -> Iterator[Resource]:
    ours = _Rollouts(storage, settings, hooks, cluster_view, rollouts)
    yield Resource("/fastgw/rollout", {"GET": ours.read, "POST": ours.start})
    yield Resource("/fastgw/rollout/promote", {"POST": ours.promote})
    yield Resource("/fastgw/rollout/abort", {"POST": ours.abort})
    yield Resource("/fastgw/rollout/wait", {"GET": ours.wait})
    yield Resource("/fastgw/rollouts", {"GET": ours.newest})
    yield Resource("/fastgw/rollouts/{id}", {"GET": ours.read_one})
