import asyncio
from collections.abc import Callable

from fastgw.dp._downstream import Downstream
from fastgw.dp._metrics import MetricsSegment
from fastgw.dp._phases import Phases
from fastgw.dp._runtime import Runtime
from fastgw.dp._wheel import TimerWheel
from fastgw.dp.server import ProxyOptions
from fastgw.dp.upstream.connector import Connector
from fastgw.obs.accesslog import AccessLog
from fastgw.obs.logs import Logger
from fastgw.tls.server import CertificateStore

class Listener:
    scheme: bytes
    port: int
    certificates: CertificateStore | None
    takes_proxy_header: bool
    def __init__(
        self,
        scheme: bytes,
        port: int,
        certificates: CertificateStore | None = None,
        takes_proxy_header: bool = False,
    ) -> None: ...

class ProxyCore:
    loop: asyncio.AbstractEventLoop
    options: ProxyOptions
    current: Runtime | None
    downstreams: set[Downstream]
    is_draining: bool
    closes_idle: bool
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: ProxyOptions,
        wheel: TimerWheel,
        metrics: MetricsSegment,
        access_log: AccessLog | None,
        log: Logger,
    ) -> None: ...
    def swap(self, runtime: Runtime) -> Runtime | None: ...
    def set_connector(self, connector: Connector) -> None: ...
    def set_phases(self, phases: Phases) -> None: ...
    connections_limit: int
    def set_room_hooks(self, on_full: Callable[[], object], on_room: Callable[[], object]) -> None: ...
    def begin_drain(self, on_drained: Callable[[], object]) -> None: ...
    def begin_closing_idle(self) -> None: ...
