from fastgw.dp._core import ProxyCore

class Phases:
    def __init__(self, core: ProxyCore) -> None: ...
