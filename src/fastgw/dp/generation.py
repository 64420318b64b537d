"""A generation as the supervisor holds it: numbers, and the images that every worker maps."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fastgw.routing.image import read_checksum


class ImageFile:
    """An open image; the descriptor closes with its last holder.

    A worker may be starting on a generation at the moment when the next one is decided, so no single
    holder knows when the descriptor is free.
    """

    __slots__ = ("__weakref__", "checksum", "fd")

    def __init__(self, fd: int) -> None:
        """Take over *fd*.

        Raises:
            ImageError: it is not that of an image.
        """
        weakref.finalize(self, os.close, fd)
        self.fd: Final = fd
        self.checksum: Final = read_checksum(fd)
        """The image's name for its overlays."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One configuration, compiled."""

    number: int
    """Counts what this supervisor has tried to apply, from 1; 0 stands for none."""
    version: int
    """The control plane's, or the count of readings of a declarative file."""
    digest: str
    counts: Mapping[str, int]
    image: ImageFile
    """Its base: the same for many generations."""
    overlay: ImageFile | None = None
    """None: the base is all."""


def describe_counts(counts: Mapping[str, int]) -> str:
    """Say how many entities of each kind there are, for a log line."""
    return ", ".join(f"{kind} {count}" for kind, count in counts.items() if count) or "no entities"
