import asyncio

from fastgw.dp._core import ProxyCore

class UpstreamConnection(asyncio.BufferedProtocol):
    is_closed: bool

class Pool:
    host: str
    port: int
    idle_count: int
    def __init__(self, core: ProxyCore, host: str, port: int) -> None: ...
    def make_connection(self) -> UpstreamConnection: ...
    def close_idle(self) -> None: ...
