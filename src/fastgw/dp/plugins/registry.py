"""Which plugins this data plane has, and their objects: one per configuration, shared by generations.

Contract. A record that does not change keeps its object, and with it what that has gathered (counters,
caches), whatever else a new generation brings; it is gone with the last generation that knows it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from fastgw.dp.plugins.base import Plugin
from fastgw.dp.plugins.chain import Chain, Step
from fastgw.routing.plugins import PluginRecord, StepRecord

#: Behaviour by name; `model/served.py` names the same, for those who compile.
BUILTIN: Final[Mapping[str, type[Plugin]]] = {}


class PluginUnusable(Exception):
    """A plugin does not come up with its configuration, or is not here: its routes answer 503."""


class Plugins:
    """The plugins of one worker."""

    def __init__(self, classes: Mapping[str, type[Plugin]] = BUILTIN) -> None:
        self._classes: Final = classes
        self._objects: weakref.WeakValueDictionary[bytes, Plugin] = weakref.WeakValueDictionary()

    def chain(self, steps: Iterable[StepRecord], record_of: Callable[[int], PluginRecord]) -> Chain | None:
        """The chain of a route with *steps*; None for none.

        Args:
            record_of: the record with a number.
        Raises:
            PluginUnusable: one line that names the plugin.
        """
        made = [self._step(step, record_of) for step in steps]
        return Chain(made) if made else None

    def _step(self, step: StepRecord, record_of: Callable[[int], PluginRecord]) -> Step:
        numbers = {step.plugin, *step.by_consumer.values()} - {-1}
        made = {number: self._object(record_of(number)) for number in numbers}
        by_consumer = {consumer: made[number] for consumer, number in step.by_consumer.items()}
        return Step(step.name, made.get(step.plugin), by_consumer, self._class_of(step.name).priority)

    def _class_of(self, name: str) -> type[Plugin]:
        found = self._classes.get(name)
        if found is None:
            raise PluginUnusable(f"plugin '{name}' is not available on this data plane")
        return found

    def _object(self, record: PluginRecord) -> Plugin:
        key = _encode(record)
        plugin = self._objects.get(key)
        if plugin is None:
            try:
                plugin = self._class_of(record.name)(record.config)
            except PluginUnusable:
                raise
            except Exception as error:
                raise PluginUnusable(f"plugin '{record.name}' does not start: {error}") from error
            self._objects[key] = plugin
        return plugin


_encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder(order="deterministic").encode
