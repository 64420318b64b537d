"""What a plugin is: a name, a priority, and those of the phases that it overrides."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, ClassVar

from fastgw.dp.plugins.messages import Answer, Request, Response


class Plugin:
    """The base of all plugins; a phase that a subclass does not override is never called.

    One object serves all requests under one configuration, also across generations that leave this
    configuration as it is: what belongs to one request goes into `Request.ctx`.

    Phases that may wait (`async def`) are `rewrite`, `access`, `response` and `log`; the filters may not, as
    the bytes are on their way. Whatever a phase raises ends the request with 500 (once the answer has begun:
    cuts it), and the error log names the plugin.
    """

    name: ClassVar[str]
    """Kong's name of the plugin, as configurations have it."""
    priority: ClassVar[int] = 0
    """Larger runs first; of equal ones the last by name."""
    deadline_s: ClassVar[float] = 60.0
    """How long one phase of one request may wait."""
    reads_body: ClassVar[bool] = False
    """Whether `access` wants the request's whole body; see `Request.body`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Take the configuration, valid by the plugin's schema; an error here makes its routes answer 503."""
        self.config = config

    def rewrite(self, request: Request) -> Answer | None | Awaitable[Answer | None]:
        """Before routing, global plugins only: the request may be changed in all its parts, or answered."""

    def access(self, request: Request) -> Answer | None | Awaitable[Answer | None]:
        """The route is known: change what goes upstream, say who asks, or answer."""

    def response(self, request: Request, response: Response) -> None | Awaitable[None]:
        """The whole answer is here and nothing of it is sent: change it. Instead of both filters."""

    def header_filter(self, request: Request, response: Response) -> None:
        """The answer's head is here and not sent: change it."""

    def body_filter(self, request: Request, response: Response, data: bytes, is_last: bool) -> bytes:
        """Return what goes to the client in place of *data*, a part of the answer's body."""
        return data

    def log(self, request: Request, response: Response) -> None | Awaitable[None]:
        """The answer is sent, or the client gone: tell of it."""
