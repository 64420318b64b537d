"""A route's plugins in their order, and how each phase goes through them.

Contract. A chain is put together once per route and generation and never changes. Which configuration of a
name serves a request depends on the consumer alone; without consumers that is known beforehand.
Phases are plain calls; only one that waits makes a coroutine of the rest of its phase.

Source: proxying reference §5.2 to §5.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from inspect import iscoroutine
from typing import Any, Final, NoReturn

from fastgw.dp.plugins.base import Plugin
from fastgw.dp.plugins.messages import Answer, Request, Response

BODY_LIMIT: Final = 8 * 1024 * 1024
"""The longest body, of a request or an answer, that a plugin gets to see whole."""


class PluginFailed(Exception):
    """A plugin broke a phase: what it raised is the cause."""

    def __init__(self, plugin: Plugin, phase: str) -> None:
        super().__init__(f"plugin '{plugin.name}' failed in phase '{phase}'")


class Step:
    """One name on the way: the plugin for all, and those for single consumers."""

    __slots__ = ("by_consumer", "name", "plugin", "priority")

    def __init__(
        self, name: str, plugin: Plugin | None, by_consumer: dict[str, Plugin], priority: int
    ) -> None:
        self.name = name
        self.plugin = plugin
        self.by_consumer = by_consumer
        self.priority = priority

    def pick(self, request: Request) -> Plugin | None:
        """The plugin for whom the request is known to come from by now."""
        if self.by_consumer and request.consumer is not None:
            return self.by_consumer.get(request.consumer.id, self.plugin)
        return self.plugin


class Collected:
    """The plugins of one request in the phases of the answer: those that override each."""

    __slots__ = ("body_filters", "header_filters", "logs", "responses")

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self.responses = _overriding(plugins, "response")
        # A plugin that sees the answer whole has no part in the filters.
        filtering = [plugin for plugin in plugins if plugin not in self.responses]
        self.header_filters = _overriding(filtering, "header_filter")
        self.body_filters = _overriding(filtering, "body_filter")
        self.logs = _overriding(plugins, "log")


class Chain:
    """See the module."""

    def __init__(self, steps: Sequence[Step]) -> None:
        # Kong's order: by priority, of equal ones the last by name.
        self.steps: Final = tuple(
            sorted(sorted(steps, key=lambda step: step.name, reverse=True), key=lambda step: -step.priority)
        )
        every = [
            plugin
            for step in self.steps
            for plugin in (step.plugin, *step.by_consumer.values())
            if plugin is not None
        ]
        self.reads_body: Final = any(plugin.reads_body for plugin in every)
        self.rewrites: Final = _overriding(every, "rewrite")
        self.everyone: Final = Collected([step.plugin for step in self.steps if step.plugin is not None])
        """Whose later phases run for a request of no consumer."""
        self._has_consumers = any(step.by_consumer for step in self.steps)
        self._accesses = _overriding(every, "access")

    def rewrite(self, request: Request) -> Answer | None | Coroutine[Any, Any, Answer | None]:
        """Run the phase; a coroutine where a plugin waits.

        Raises:
            PluginFailed: a plugin did.
        """
        calls = [(plugin, plugin.rewrite) for plugin in self.rewrites]
        return _run("rewrite", calls, request)

    def access(
        self, request: Request, collect: Callable[[Collected], None]
    ) -> Answer | None | Coroutine[Any, Any, Answer | None]:
        """Run the phase; *collect* gets whose later phases run, before this returns or the coroutine ends.

        Raises:
            PluginFailed: a plugin did; *collect* has been called.
        """
        if not self._has_consumers:
            collect(self.everyone)
            return _run("access", [(plugin, plugin.access) for plugin in self._accesses], request)
        return self._access_by_consumer(request, collect)

    async def _access_by_consumer(
        self, request: Request, collect: Callable[[Collected], None]
    ) -> Answer | None:
        picked: list[Plugin] = []
        answer: Answer | None = None
        is_over = False
        try:
            for step in self.steps:
                plugin = step.pick(request)
                if plugin is None:
                    continue
                # Those behind an answer have no access, but their later phases (Kong's way).
                picked.append(plugin)
                if is_over or type(plugin).access is Plugin.access:
                    continue
                found = _run("access", [(plugin, plugin.access)], request)
                answer = await found if iscoroutine(found) else found  # type: ignore[assignment]
                is_over = answer is not None
        finally:
            collect(Collected(picked))
        return answer


def run_response(
    plugins: Sequence[Plugin], request: Request, response: Response
) -> Coroutine[Any, Any, Answer | None] | None:
    """Run the phase `response`; a coroutine where a plugin waits.

    Raises:
        PluginFailed: a plugin did.
    """
    found = _run("response", [(plugin, plugin.response) for plugin in plugins], request, response)
    return found if iscoroutine(found) else None


def run_header_filters(plugins: Sequence[Plugin], request: Request, response: Response) -> None:
    """Raises PluginFailed."""
    for plugin in plugins:
        try:
            plugin.header_filter(request, response)
        except Exception as error:
            raise PluginFailed(plugin, "header_filter") from error


def run_body_filters(
    plugins: Sequence[Plugin], request: Request, response: Response, data: bytes, is_last: bool
) -> bytes:
    """Raises PluginFailed."""
    for plugin in plugins:
        try:
            data = plugin.body_filter(request, response, data, is_last)
            if not isinstance(data, bytes):
                raise TypeError(f"it returned {type(data).__name__}, not bytes")
        except Exception as error:
            raise PluginFailed(plugin, "body_filter") from error
    return data


def run_logs(
    plugins: Sequence[Plugin], request: Request, response: Response, on_failed: Callable[[PluginFailed], None]
) -> list[Coroutine[Any, Any, None]]:
    """Run the phase `log` of all, whatever one of them raises; returns what is left of those that wait."""
    waiting = []
    for plugin in plugins:
        try:
            found = plugin.log(request, response)
        except Exception as error:
            failed = PluginFailed(plugin, "log")
            failed.__cause__ = error
            on_failed(failed)
        else:
            if found is not None:
                waiting.append(_wait_for_log(plugin, found, on_failed))
    return waiting


async def _wait_for_log(plugin: Plugin, found: Any, on_failed: Callable[[PluginFailed], None]) -> None:
    try:
        await _within(plugin, "log", found)
    except PluginFailed as failed:
        on_failed(failed)


def _run(
    phase: str, calls: Sequence[tuple[Plugin, Callable[..., Any]]], *arguments: Any
) -> Answer | None | Coroutine[Any, Any, Answer | None]:
    for place, (plugin, call) in enumerate(calls):
        try:
            found = call(*arguments)
        except Exception as error:
            raise PluginFailed(plugin, phase) from error
        if found is None:
            continue
        if iscoroutine(found):
            return _go_on(phase, calls, place, found, *arguments)
        return _checked(plugin, phase, found)
    return None


async def _go_on(
    phase: str, calls: Sequence[tuple[Plugin, Callable[..., Any]]], place: int, found: Any, *arguments: Any
) -> Answer | None:
    """The rest of a phase from the one at *place* on, which waits."""
    plugin, _ = calls[place]
    answer = await _within(plugin, phase, found)
    if answer is not None:
        return _checked(plugin, phase, answer)
    rest = _run(phase, calls[place + 1 :], *arguments)
    return await rest if iscoroutine(rest) else rest  # type: ignore[return-value]


async def _within(plugin: Plugin, phase: str, found: Any) -> Any:
    try:
        async with asyncio.timeout(plugin.deadline_s):
            return await found
    except Exception as error:
        raise PluginFailed(plugin, phase) from error


def _checked(plugin: Plugin, phase: str, found: Any) -> Answer:
    if not isinstance(found, Answer) or phase == "response":
        _refuse(plugin, phase, found)
    return found


def _refuse(plugin: Plugin, phase: str, found: Any) -> NoReturn:
    wanted = "nothing" if phase == "response" else "an Answer or None"
    error = TypeError(f"it returned {type(found).__name__}, not {wanted}")
    raise PluginFailed(plugin, phase) from error


def _overriding(plugins: Sequence[Plugin], phase: str) -> tuple[Plugin, ...]:
    """Those of *plugins* that override the method *phase*."""
    return tuple(plugin for plugin in plugins if getattr(type(plugin), phase) is not getattr(Plugin, phase))
