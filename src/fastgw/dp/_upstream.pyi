import asyncio
import ssl

from fastgw.dp._core import ProxyCore
from fastgw.tls.client import UpstreamTls

class UpstreamConnection(asyncio.BufferedProtocol):
    is_closed: bool
    handshake: asyncio.Future[None] | None
    def give_up(self) -> None: ...

class Pool:
    host: str
    port: int
    tls: UpstreamTls | None
    idle_count: int
    is_used: bool
    def __init__(
        self, core: ProxyCore, host: str, port: int, tls: UpstreamTls | None = None, *, keeps_idle: bool = True
    ) -> None: ...
    def make_connection(self, context: ssl.SSLContext | None = None) -> UpstreamConnection: ...
    def close_idle(self) -> None: ...
