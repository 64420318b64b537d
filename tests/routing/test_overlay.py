"""Base and overlay answer as one whole image would, whatever changed; and what does not belong is refused."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw._overlay import LayeredTable
from fastgw._router import Request
from fastgw._router_explain import explain
from fastgw.errors import CompileError, DeltaError, ImageError
from fastgw.model.snapshot import EntityChange, Snapshot, pack_delta
from fastgw.routing.compile import compile_layer, compile_snapshot
from fastgw.routing.compiler import OVERLAY_LEAST, Compiled, Compiler
from fastgw.routing.image import Image, Patch, RouteRecord, ServiceRecord, pack_overlay
from fastgw.routing.jobs import make_sealed_memfd
from fastgw.routing.layered import LayeredImage
from fastgw.routing.overlay import Base, compile_overlay
from fastgw.routing.surroundings import Surroundings
from tests.routing.snapshots import make_id, route, service, snapshot

# A busy machine must not turn a property into a stopwatch.
unhurried = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

HOSTS = ["a.com", "b.a.com", "*.a.com", "a.*", "a.com:8080"]
PATHS = ["/", "/a", "/a/b", "/ab", "~/(?<first>a)/.", "~/a+$"]
METHODS = ["GET", "PUT", "X"]
REQUESTS = [
    (method.encode(), host, path.encode())
    for method in ("GET", "X")
    for host in (b"", b"a.com", b"b.a.com", b"a.com:8080", b"a.org")
    for path in ("/", "/a", "/a/b/c", "/abc")
]

routes = st.fixed_dictionaries(
    {
        "to": st.none() | st.integers(1, 3),
        "hosts": st.none() | st.lists(st.sampled_from(HOSTS), min_size=1, max_size=2, unique=True),
        "paths": st.none() | st.lists(st.sampled_from(PATHS), min_size=1, max_size=2, unique=True),
        "methods": st.none() | st.lists(st.sampled_from(METHODS), min_size=1, max_size=2, unique=True),
        "created_at": st.integers(1, 3),
        "strip_path": st.booleans(),
        "headers": st.none() | st.just({"x": ["1"]}),
    }
)
services = st.fixed_dictionaries({"port": st.integers(1, 3), "enabled": st.booleans()})
#: One entity by number, or none any more. Services 1 to 3, routes from 11.
change = st.tuples(st.integers(1, 3), st.none() | services) | st.tuples(
    st.integers(11, 22), st.none() | routes
)
Rows = dict[int, dict[str, Any]]


def open_image(data: bytes) -> Image:
    fd = make_sealed_memfd("test-image", data)
    try:
        return Image.open(fd)
    finally:
        os.close(fd)


def snapshot_of(rows: Rows, version: int) -> Snapshot:
    made = [
        service(number, **fields) if number < 10 else route(number, **fields)
        for number, fields in rows.items()
    ]
    return snapshot(*made, version=version)


def answers(image: Image | LayeredImage) -> list[object]:
    """All that can be seen of an image from outside: records instead of numbers."""
    seen: list[object] = []
    table = image.table()
    for request in REQUESTS:
        found = table.match(*request)
        captures = table.captures_of(Request(*request))
        seen.append(None if found is None else (*records(image, found[0]), found[1], captures))
        asked = Request(*request, headers=[(b"X", b"1")])
        found = table.match_request(asked)
        seen.append(None if found is None else (*records(image, found[0]), found[1]))
        for near_only in (True, False):
            for considered in explain(table, asked, near_only=near_only):
                told = considered._replace(route=0, rank=0)
                seen.append((*records(image, considered.route), told))  # noqa: PERF401 - one list
    return seen


def records(image: Image | LayeredImage, number: int) -> tuple[RouteRecord, ServiceRecord | None]:
    found = image.route(number)
    to = image.service(found.service) if found.service >= 0 else None
    return RouteRecord(found.id, found.name, 0, *list_of(found)[3:]), to


def list_of(record: RouteRecord) -> list[Any]:
    return [getattr(record, field) for field in record.__struct_fields__]


def attempt(made: Snapshot) -> tuple[Image | None, list[dict[str, str]]]:
    try:
        return open_image(compile_snapshot(made)), []
    except CompileError as exc:
        return None, exc.faults


@unhurried
@given(st.lists(change, max_size=14), st.lists(st.lists(change, min_size=1, max_size=4), max_size=6))
def test_an_overlay_over_its_base_is_the_whole(
    before: list[tuple[int, Any]], steps: list[list[tuple[int, Any]]]
) -> None:
    rows: Rows = {number: {"port": 80} for number in (1, 2, 3)}
    for number, fields in before:
        apply(rows, number, fields)
    made = snapshot_of(rows, 1)
    whole, _ = attempt(made)
    if whole is None:
        return
    base = Base(whole, made)
    assert answers(LayeredImage(whole)) == answers(whole)
    for version, step in enumerate(steps, 2):
        for number, fields in step:
            apply(rows, number, fields)
        after = snapshot_of(rows, version)
        expected, faults = attempt(after)
        if expected is None:
            assert faults_of(base, after) == faults
            continue
        overlay = open_image(compile_overlay(base, after, base.snapshot.delta(after)))
        layered = LayeredImage(base.image, overlay)
        assert answers(layered) == answers(expected)
        assert layered.meta.digest == after.digest
        assert layered.meta.counts == after.counts()
        assert overlay.snapshot(base.snapshot) == after


def faults_of(base: Base, made: Snapshot) -> list[dict[str, str]]:
    """In a frame of its own: what an exception refers to holds no image open."""
    with pytest.raises(CompileError) as caught:
        compile_overlay(base, made, base.snapshot.delta(made))
    return caught.value.faults


def apply(rows: Rows, number: int, fields: dict[str, Any] | None) -> None:
    if fields is None:
        rows.pop(number, None)
    elif number > 10 and not any(fields[kind] for kind in ("hosts", "paths", "methods")):
        rows[number] = {**fields, "paths": ["/"]}
    else:
        rows[number] = fields


class Process:
    """A compile process without the process: names its base as a data plane does."""

    def __init__(self) -> None:
        self.compiler = Compiler()
        self.base: Image | None = None
        self.layered: LayeredImage | None = None
        self.running: Snapshot | None = None
        """What `layered` was made of."""

    def open_base(self) -> Image:
        assert self.base is not None
        return self.base

    def open_overlay(self) -> Image:
        assert self.layered is not None
        assert self.layered.overlay is not None
        return self.layered.overlay

    def compile(self, made: Snapshot, *, accept: bool = True, by_delta: bool = False) -> Compiled:
        base, running = self.base, self.running
        is_layered = self.layered is not None and self.layered.base is base
        compiled = self.compiler.compile(
            pack_delta(running.delta(made)) if by_delta and running is not None else made.pack(),
            version=made.version,
            digest=made.digest,
            since=running.digest if by_delta and running is not None else "",
            base=base.checksum if base is not None else "",
            open_base=self.open_base if base is not None else None,
            open_overlay=self.open_overlay
            if is_layered and self.layered is not None and self.layered.overlay is not None
            else None,
        )
        if compiled.base is not None:
            fresh = open_image(compiled.base)
            self.compiler.take_base(fresh)
            base = fresh
        if accept:
            assert base is not None
            self.base, self.running = base, made
            overlay = open_image(compiled.overlay) if compiled.overlay is not None else None
            self.layered = LayeredImage(base, overlay)
        return compiled


@unhurried
@given(
    st.lists(
        st.tuples(
            st.lists(change, min_size=1, max_size=6),
            st.sampled_from(["", "", "restart", "merge", "merge, restart", "refuse", "lose the merge"]),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_whatever_a_compile_process_remembers_the_answer_is_the_same(
    steps: list[tuple[Any, str, bool]],
) -> None:
    rows: Rows = {number: {"port": 80} for number in (1, 2, 3)}
    rows |= {number: {"paths": [f"/{number}"], "to": 1} for number in range(30, 50)}
    process = Process()
    process.compile(snapshot_of(rows, 1))
    for version, (step, event, by_delta) in enumerate(steps, 2):
        for number, fields in step:
            apply(rows, number, fields)
        made = snapshot_of(rows, version)
        expected, faults = attempt(made)
        try:
            process.compile(made, accept=event != "refuse", by_delta=by_delta)
        except CompileError as exc:
            refused = exc.faults
        else:
            refused = []
        assert refused == faults
        if refused:
            continue
        assert expected is not None
        if event == "refuse":
            process.compile(made, by_delta=by_delta)
        assert process.layered is not None
        assert answers(process.layered) == answers(expected)
        if "merge" in event:
            merged = open_image(compile_snapshot(made))
            process.compiler.take_merged(merged, made)
            if event != "lose the merge":
                process.base = merged
        if "restart" in event:
            process.compiler = Compiler()


def many(count: int, **fields: Any) -> Rows:
    return {number: {"paths": [f"/{number}"], **fields} for number in range(100, 100 + count)}


def test_one_change_is_an_overlay_of_one_route() -> None:
    process = Process()
    rows = many(50)
    first = process.compile(snapshot_of(rows, 1))
    assert first.base is not None
    assert (first.overlay, first.wants_merge) == (None, False)
    rows[107] = {"paths": ["/moved"]}
    second = process.compile(snapshot_of(rows, 2))
    assert second.base is None
    assert second.overlay is not None
    assert process.layered is not None
    assert process.layered.overlay is not None
    assert process.layered.overlay.route_count == 1
    found = process.layered.table().match(b"GET", b"", b"/moved")
    assert found == (50, 6)
    assert process.layered.route(50).id == make_id(107)
    assert process.layered.table().match(b"GET", b"", b"/107") is None


def test_what_goes_back_to_the_base_leaves_the_overlay() -> None:
    process = Process()
    rows = many(50)
    process.compile(snapshot_of(rows, 1))
    process.compile(snapshot_of(rows | {107: {"paths": ["/x"]}}, 2))
    process.compile(snapshot_of(rows, 3))
    assert process.layered is not None
    assert process.layered.overlay is not None
    assert process.layered.overlay.route_count == 0
    assert process.layered.meta.version == 3


def test_a_small_table_with_many_changes_is_compiled_anew() -> None:
    process = Process()
    rows = many(50)
    process.compile(snapshot_of(rows, 1))
    for version in range(2, OVERLAY_LEAST + 2):
        rows[98 + version] = {"paths": [f"/v{version}"]}
        assert process.compile(snapshot_of(rows, version)).base is None
    rows[99 + version] = {"paths": ["/last"]}
    assert process.compile(snapshot_of(rows, 100)).base is not None
    rows[99 + version] = {"paths": ["/again"]}
    assert process.compile(snapshot_of(rows, 101)).base is None


def test_a_large_table_wants_a_merge_first_and_is_compiled_anew_if_none_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastgw.routing.compiler.SMALL_ENTITIES", 0)
    process = Process()
    rows = many(80)
    process.compile(snapshot_of(rows, 1))
    wants = {}
    for version in range(2, 80):
        rows[98 + version] = {"paths": [f"/v{version}"]}
        compiled = process.compile(snapshot_of(rows, version))
        wants[version - 1] = compiled.wants_merge
        if compiled.base is not None:
            break
    assert version - 1 == 4 * OVERLAY_LEAST + 1
    assert [changes for changes, wanted in wants.items() if wanted] == list(
        range(OVERLAY_LEAST + 1, version - 1)
    )


def test_a_base_that_cannot_be_read_is_replaced() -> None:
    def damaged() -> Image:
        raise ImageError("its checksum is wrong")

    compiler = Compiler()
    made = snapshot(route(1, paths=["/"]))
    compiled = compiler.compile(made.pack(), version=1, digest=made.digest, base="00" * 32, open_base=damaged)
    assert compiled.base is not None


def changed(*numbers: int) -> Rows:
    return many(40) | {number: {"paths": ["/x"]} for number in numbers}


def test_a_delta_is_read_from_what_runs_by_who_does_not_remember_it() -> None:
    process = Process()
    process.compile(snapshot_of(many(40), 1))
    process.compile(snapshot_of(changed(100), 2))
    process.compiler = Compiler()
    compiled = process.compile(snapshot_of(changed(100, 101), 3), by_delta=True)
    assert (compiled.base, process.layered is not None) == (None, True)


def test_a_delta_from_the_unknown_or_to_elsewhere_is_of_no_use() -> None:
    process = Process()
    process.compile(snapshot_of(many(40), 1))
    process.running = snapshot_of(changed(100), 2)
    target = snapshot_of(changed(101), 3)
    with pytest.raises(DeltaError, match="which is not known"):
        process.compile(target, by_delta=True)
    process.running = snapshot_of(many(40), 1)
    delta = pack_delta(process.running.delta(target))
    with pytest.raises(DeltaError, match="the changes lead to the digest"):
        process.compiler.compile(delta, version=3, digest="ab" * 32, since=process.running.digest)
    assert process.compile(target, by_delta=True).overlay is not None


def test_facts_around_are_kept_between_deltas_and_noticed_when_they_change() -> None:
    process = Process()
    process.compile(snapshot_of(many(40), 1))
    plugin = {"id": make_id(7), "name": "missing", "enabled": True} | dict.fromkeys(
        ("consumer", "route", "service")
    )
    rows = snapshot_of(many(40), 1)
    with_plugin = rows.apply([EntityChange(2, "plugins", make_id(7), plugin)])
    for made, warnings in ((with_plugin, 1), (snapshot_of(changed(100), 3), 0)):
        assert len(process.compile(made, by_delta=True).warnings) == warnings
    kept = with_plugin.apply([EntityChange(4, "routes", make_id(500), route(500, paths=["/500"]))])
    process.compile(with_plugin, by_delta=True)
    assert len(process.compile(kept, by_delta=True).warnings) == 1


BASE = snapshot(service(1), *(route(n, to=1, paths=[f"/{n}"]) for n in range(10, 20)))
AFTER = snapshot(service(1, port=81), *(route(n, to=1, paths=[f"/{n}"]) for n in range(10, 19)), version=8)


def overlay_with(patch: Patch) -> Image:
    layer = compile_layer([], around=Surroundings(AFTER))
    return open_image(
        pack_overlay(
            base=BASE_IMAGE.checksum,
            version=8,
            digest="",
            counts={},
            table=layer.table,
            routes=layer.routes,
            services=layer.services,
            patch=patch,
            packed_delta=b"",
        )
    )


BASE_IMAGE = open_image(compile_snapshot(BASE))


@pytest.mark.parametrize(
    ("patch", "complaint"),
    [
        (Patch([10], {}), "removes the route 10 of 10"),
        (Patch([], {0: 1}), "replaces the service 0 by 1, of 1"),
        (Patch([], {1: 1}), "replaces the service 1 by 1, of 1"),
    ],
)
def test_an_overlay_that_does_not_fit_is_refused(patch: Patch, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        LayeredImage(BASE_IMAGE, overlay_with(patch))


def test_what_does_not_belong_together_is_refused() -> None:
    overlay = overlay_with(Patch([], {}))
    with pytest.raises(ImageError, match="belongs to another base"):
        LayeredImage(open_image(compile_snapshot(AFTER)), overlay)
    with pytest.raises(ImageError, match="belongs to another base"):
        LayeredImage(BASE_IMAGE, BASE_IMAGE)
    with pytest.raises(ImageError, match="is an overlay, not a base"):
        LayeredImage(overlay)


def test_an_overlay_of_a_missing_service_says_so() -> None:
    base = Base(BASE_IMAGE, BASE)
    gone = snapshot(*(route(n, to=1, paths=[f"/{n}"]) for n in range(10, 12)), version=8)
    assert [fault["id"] for fault in faults_of(base, gone)] == [make_id(10), make_id(11)]


def test_a_service_that_changes_keeps_its_routes_in_the_base() -> None:
    base = Base(BASE_IMAGE, BASE)
    overlay = open_image(compile_overlay(base, AFTER, BASE.delta(AFTER)))
    assert (overlay.route_count, overlay.service_count) == (0, 1)
    layered = LayeredImage(BASE_IMAGE, overlay)
    found = layered.table().match(b"GET", b"", b"/12")
    assert found is not None
    assert found[0] < layered.table().base_routes
    assert layered.service(layered.route(found[0]).service).port == 81
    assert layered.table().match(b"GET", b"", b"/19") is None
    assert layered.table().overlay is not None


def test_the_layered_table_checks_what_it_is_given() -> None:
    table = BASE_IMAGE.table()
    for arguments in ((9, None, ()), (10, None, (10,)), (10, None, (-1,)), (2**32, None, ())):
        with pytest.raises((ValueError, OverflowError)):
            LayeredTable(table, *arguments)
    assert LayeredTable(table, 10, None, (2,)).match(b"GET", b"", b"/12") is None
    assert LayeredTable(table, 10).base is table
