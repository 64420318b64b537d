"""`/metrics` of a data plane: what its workers counted, summed, in Prometheus' text format.

Names, labels and buckets are those of the prometheus plugin of Kong, so that dashboards go on working; what
that does not have is called `fastgw_*`. The figures come as plain data: shared memory is the caller's part.

Counts are summed by labels, not by route id: a route that is deleted and made anew under its name goes on
where it was. A histogram always shows all its buckets (Kong leaves out the empty ones below the first count).
Source: Kong's prometheus plugin (proxying reference §5.6).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, TypedDict

from fastgw import __version__

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
KONG_VERSION: Final = "3.9.1"
GATEWAY_BOUNDS: Final = (1, 2, 5, 7, 10, 15, 20, 30, 50, 75, 100, 200, 500, 750, 1000, 3000, 6000)
LATENCY_BOUNDS: Final = (25, 50, 80, 100, 250, 400, 700, 1000, 2000, 5000, 10000, 30000, 60000)
"""Upper bounds in milliseconds; the workers count into the same."""

_SOURCES: Final = ("service", "kong")
_Labels = Sequence[tuple[str, str]]


class RouteValues(TypedDict):
    """One route's counters in one worker; histograms are (counts per bucket, sum in ms)."""

    route_id: bytes
    service: str
    route: str
    bytes_in: int
    bytes_out: int
    codes: dict[tuple[int, int], int]
    gateway: tuple[list[int], int]
    upstream: tuple[list[int], int]
    request: tuple[list[int], int]


class SegmentValues(TypedDict):
    """One worker's counters; `totals` is empty before its first process."""

    totals: dict[str, int]
    routes: list[RouteValues]


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One worker: its process and its counters."""

    index: int
    pid: int | None
    is_running: bool
    restarts_total: int
    memory_bytes: int
    segment_bytes: int
    """Memory that its counters take."""
    values: SegmentValues


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """What concerns the data plane as a whole."""

    node_id: str
    config_version: int
    config_applied_total: int
    config_refused_total: int
    control_plane_connected: bool | None
    """None without a control plane."""
    control_planes: Mapping[str, bool]
    """The addresses of all that are named, and whether it is the one that is linked."""
    certificate_expires_s: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Connections and requests of all workers."""

    connections: dict[str, int]
    """By nginx's names, `connections_` before each."""
    requests: int
    others: dict[str, int]


@dataclass(slots=True)
class _RouteSum:
    bytes_in: int = 0
    bytes_out: int = 0
    codes: Counter[tuple[int, int]] = field(default_factory=Counter)
    gateway: list[int] = field(default_factory=lambda: [0] * (len(GATEWAY_BOUNDS) + 1))
    gateway_sum: int = 0
    upstream: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    upstream_sum: int = 0
    request: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    request_sum: int = 0

    def add(self, values: RouteValues) -> None:
        self.bytes_in += values["bytes_in"]
        self.bytes_out += values["bytes_out"]
        self.codes.update(values["codes"])
        self.gateway_sum += _add_histogram(self.gateway, values["gateway"])
        self.upstream_sum += _add_histogram(self.upstream, values["upstream"])
        self.request_sum += _add_histogram(self.request, values["request"])


class _Page:
    """The text in the making: one family after the other."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, help_text: str) -> None:
        self._lines.append(f"# HELP {name} {help_text}\n# TYPE {name} {kind}")

    def sample(self, name: str, value: float, labels: _Labels = ()) -> None:
        shown = _show_labels(labels)
        self._lines.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")

    def single(self, name: str, kind: str, help_text: str, value: float, labels: _Labels = ()) -> None:
        """Add a family with one sample."""
        self.family(name, kind, help_text)
        self.sample(name, value, labels)

    def histogram(
        self, name: str, labels: _Labels, bounds: Iterable[int], counts: Sequence[int], sum_: int
    ) -> None:
        shown = _show_labels(labels)  # once: with many routes these lines are most of the page
        total = 0
        for edge, total in zip((*bounds, "+Inf"), accumulate(counts), strict=True):
            self._lines.append(f'{name}_bucket{{{shown},le="{edge}"}} {total}')
        self._lines.append(f"{name}_count{{{shown}}} {total}")
        self._lines.append(f"{name}_sum{{{shown}}} {sum_}")

    def encode(self) -> bytes:
        return "\n".join((*self._lines, "")).encode()


def sum_totals(workers: Iterable[WorkerFigures]) -> Totals:
    """Sum connections and requests over *workers*, by nginx's names."""
    sums: Counter[str] = Counter()
    generations = 0
    for worker in workers:
        sums.update(worker.values["totals"])
        generations = max(generations, worker.values["totals"].get("generations_live", 0))
    active = sums["connections_active"]
    connections = {
        "connections_accepted": sums["connections_accepted_total"],
        "connections_active": active,
        "connections_handled": sums["connections_accepted_total"] - sums["connections_refused_total"],
        "connections_reading": sums["connections_reading"],
        "connections_waiting": max(0, active - sums["connections_reading"] - sums["connections_busy"]),
        "connections_writing": sums["connections_busy"],
    }
    return Totals(connections, sums["requests_total"], {**sums, "generations_live": generations})


def render(node: NodeFigures, workers: Sequence[WorkerFigures]) -> bytes:
    """Write the page that Prometheus reads; families in the order of their names."""
    page = _Page()
    routes = _sum_routes(workers)
    totals = sum_totals(workers)
    _render_own(page, node, workers, totals)
    _render_bandwidth(page, routes)
    if node.certificate_expires_s is not None:
        page.single(
            "kong_data_plane_cluster_cert_expiry_timestamp",
            "gauge",
            "Unix timestamp of Data Plane's cluster_cert expiry time",
            int(node.certificate_expires_s),
        )
    page.single("kong_datastore_reachable", "gauge", "Datastore reachable from Kong, 0 is unreachable", 1)
    _render_requests(page, routes)
    _render_gateway_latency(page, routes)
    _render_memory(page, node, workers)
    _render_nginx(page, node, totals)
    page.single(
        "kong_node_info",
        "gauge",
        "Kong Node metadata information",
        1,
        (("node_id", node.node_id), ("version", KONG_VERSION)),
    )
    _render_latencies(page, routes)
    return page.encode()


def _sum_routes(workers: Iterable[WorkerFigures]) -> list[tuple[_Labels, _RouteSum]]:
    """Sum the routes' counters by labels, sorted by them."""
    sums: dict[tuple[str, str], _RouteSum] = {}
    for worker in workers:
        for values in worker.values["routes"]:
            sums.setdefault((values["service"], values["route"]), _RouteSum()).add(values)
    return [
        ((("service", service), ("route", route)), sums[service, route]) for service, route in sorted(sums)
    ]


def _render_own(page: _Page, node: NodeFigures, workers: Sequence[WorkerFigures], totals: Totals) -> None:
    page.single("fastgw_build_info", "gauge", "Version of this data plane", 1, (("version", __version__),))
    page.single(
        "fastgw_config_applied_total",
        "counter",
        "Configurations applied since the start",
        node.config_applied_total,
    )
    page.single(
        "fastgw_config_refused_total",
        "counter",
        "Configurations refused since the start",
        node.config_refused_total,
    )
    page.single(
        "fastgw_config_version", "gauge", "Version of the configuration that is served", node.config_version
    )
    page.single(
        "fastgw_connections_refused_total",
        "counter",
        "Connections closed at the limit of a worker",
        totals.others.get("connections_refused_total", 0),
    )
    if node.control_plane_connected is not None:
        page.single(
            "fastgw_control_plane_connected",
            "gauge",
            "Whether the link to the control plane stands",
            int(node.control_plane_connected),
        )
        page.family("fastgw_control_plane_linked", "gauge", "Which control plane the link leads to")
        for address, is_linked in sorted(node.control_planes.items()):
            page.sample("fastgw_control_plane_linked", int(is_linked), (("control_plane", address),))
    page.single(
        "fastgw_generations_live",
        "gauge",
        "Generations that the worker with the most of them still holds",
        totals.others["generations_live"],
    )
    page.single(
        "fastgw_log_lines_dropped_total",
        "counter",
        "Lines of the access log that its destination did not take",
        totals.others.get("log_lines_dropped_total", 0),
    )
    page.family(
        "fastgw_refused_requests_total", "counter", "Answers to what found no route, or was no request"
    )
    for name in sorted(totals.others):
        if name.startswith("refused_"):
            page.sample(
                "fastgw_refused_requests_total",
                totals.others[name],
                (("code", name.removeprefix("refused_")),),
            )
    page.single(
        "fastgw_unmatched_requests_total",
        "counter",
        "Requests that found no route",
        totals.others.get("unmatched_total", 0),
    )
    page.single(
        "fastgw_upstream_connects_total",
        "counter",
        "Upstream connections opened",
        totals.others.get("upstream_connects_total", 0),
    )
    page.single(
        "fastgw_upstream_reused_total",
        "counter",
        "Requests sent on an upstream connection that was open",
        totals.others.get("upstream_reused_total", 0),
    )
    page.family("fastgw_worker_restarts_total", "counter", "Processes of a worker that were replaced")
    for worker in workers:
        page.sample("fastgw_worker_restarts_total", worker.restarts_total, (("worker", str(worker.index)),))
    page.family("fastgw_worker_up", "gauge", "Whether a worker accepts connections")
    for worker in workers:
        page.sample("fastgw_worker_up", int(worker.is_running), (("worker", str(worker.index)),))


def _render_bandwidth(page: _Page, routes: Iterable[tuple[_Labels, _RouteSum]]) -> None:
    name = "kong_bandwidth_bytes"
    page.family(name, "counter", "Total bandwidth (ingress/egress) throughput in bytes")
    tail = (("workspace", "default"), ("consumer", ""))
    for labels, route in routes:
        page.sample(name, route.bytes_out, (*labels, ("direction", "egress"), *tail))
        page.sample(name, route.bytes_in, (*labels, ("direction", "ingress"), *tail))


def _render_requests(page: _Page, routes: Iterable[tuple[_Labels, _RouteSum]]) -> None:
    name = "kong_http_requests_total"
    page.family(name, "counter", "HTTP status codes per consumer/service/route in Kong")
    for labels, route in routes:
        for (code, source), count in sorted(route.codes.items()):
            page.sample(
                name,
                count,
                (
                    *labels,
                    ("code", str(code)),
                    ("source", _SOURCES[source]),
                    ("workspace", "default"),
                    ("consumer", ""),
                ),
            )


def _render_gateway_latency(page: _Page, routes: Iterable[tuple[_Labels, _RouteSum]]) -> None:
    name = "kong_kong_latency_ms"
    page.family(name, "histogram", "Latency added by Kong and enabled plugins for each service/route in Kong")
    for labels, route in routes:
        page.histogram(
            name, (*labels, ("workspace", "default")), GATEWAY_BOUNDS, route.gateway, route.gateway_sum
        )


def _render_memory(page: _Page, node: NodeFigures, workers: Sequence[WorkerFigures]) -> None:
    """Report the memory of the workers under the names that Kong has for Lua's."""
    page.family("kong_memory_lua_shared_dict_bytes", "gauge", "Allocated slabs in bytes in a shared_dict")
    page.sample(
        "kong_memory_lua_shared_dict_bytes",
        sum(worker.segment_bytes for worker in workers),
        (("node_id", node.node_id), ("shared_dict", "prometheus_metrics"), ("kong_subsystem", "http")),
    )
    page.family("kong_memory_workers_lua_vms_bytes", "gauge", "Resident bytes of a worker")
    for worker in workers:
        if worker.pid is not None:
            page.sample(
                "kong_memory_workers_lua_vms_bytes",
                worker.memory_bytes,
                (("node_id", node.node_id), ("pid", str(worker.pid)), ("kong_subsystem", "http")),
            )


def _render_nginx(page: _Page, node: NodeFigures, totals: Totals) -> None:
    subsystem = (("node_id", node.node_id), ("subsystem", "http"))
    page.family("kong_nginx_connections_total", "gauge", "Number of connections by subsystem")
    states: Mapping[str, int] = {
        **{name.removeprefix("connections_"): count for name, count in totals.connections.items()},
        "total": totals.requests,
    }
    for state in sorted(states):
        page.sample("kong_nginx_connections_total", states[state], (*subsystem, ("state", state)))
    page.single(
        "kong_nginx_metric_errors_total",
        "counter",
        "Number of counts that found no place",
        totals.others.get("codes_dropped_total", 0),
    )
    page.single("kong_nginx_requests_total", "gauge", "Number of requests total", totals.requests, subsystem)


def _render_latencies(page: _Page, routes: Sequence[tuple[_Labels, _RouteSum]]) -> None:
    name = "kong_request_latency_ms"
    page.family(name, "histogram", "Total latency incurred during requests for each service/route in Kong")
    for labels, route in routes:
        page.histogram(
            name, (*labels, ("workspace", "default")), LATENCY_BOUNDS, route.request, route.request_sum
        )
    name = "kong_upstream_latency_ms"
    page.family(name, "histogram", "Latency added by upstream response for each service/route in Kong")
    for labels, route in routes:
        if any(route.upstream):
            page.histogram(
                name, (*labels, ("workspace", "default")), LATENCY_BOUNDS, route.upstream, route.upstream_sum
            )


def _add_histogram(into: list[int], values: tuple[list[int], int]) -> int:
    counts, sum_ = values
    for place, count in enumerate(counts):
        into[place] += count
    return sum_


def _show_labels(labels: _Labels) -> str:
    return ",".join(f'{label}="{_escape(text)}"' for label, text in labels)


def _escape(text: str) -> str:
    """Escape a label's value. Source: Prometheus' text format 0.0.4."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
