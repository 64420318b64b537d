"""docker/compose.yaml as data: what this test needs of it, and a refusal of what it does not know.

A key that the file gains and nobody reads here would be a promise that nobody tests, so it is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_KNOWN: Final = frozenset(
    "image build user read_only cap_drop security_opt tmpfs restart stop_grace_period command environment secrets "
    "volumes healthcheck ports depends_on".split()
)


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume of the file, or a file of the checkout."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Port:
    host: str
    outside: int
    inside: int


@dataclass(frozen=True, slots=True)
class Service:
    """One service of the file."""

    name: str
    image: str
    user: str | None
    read_only: bool
    tmpfs: Sequence[str]
    command: Sequence[str]
    environment: Mapping[str, str]
    volumes: Sequence[Mount]
    secrets: Mapping[str, Path]
    ports: Sequence[Port]
    depends_on: Mapping[str, str]
    """Name of a service and the condition that it must fulfil."""
    health: Sequence[str]
    stop_grace_s: float
    is_job: bool


def load(path: Path, environ: Mapping[str, str]) -> dict[str, Service]:
    """Read the file, with `${NAME:-default}` filled from *environ*."""

    def fill(found: re.Match[str]) -> str:
        return environ.get(found[1]) or found[2] or ""

    document = yaml.safe_load(_VARIABLE.sub(fill, path.read_text("utf-8")))
    secrets = {name: path.parent / given["file"] for name, given in document.get("secrets", {}).items()}
    volumes = set(document.get("volumes", {}))
    return {
        name: _service(name, given, volumes, secrets, document["services"])
        for name, given in document["services"].items()
    }


def _service(
    name: str,
    given: dict[str, Any],
    volumes: set[str],
    secrets: Mapping[str, Path],
    others: Mapping[str, Any],
) -> Service:
    unknown = set(given) - _KNOWN
    if unknown:
        raise ValueError(f"service {name}: this test does not know {', '.join(sorted(unknown))}")
    mounts = []
    for text in given.get("volumes", ()):
        source, target, *mode = text.split(":")
        if source not in volumes:
            raise ValueError(f"service {name}: volume {source} is not declared")
        mounts.append(Mount(source, target, mode == ["ro"]))
    depends = {other: how["condition"] for other, how in given.get("depends_on", {}).items()}
    if not set(depends) <= set(others):
        raise ValueError(f"service {name} depends on what is not there")
    test = given.get("healthcheck", {}).get("test", [])
    if test and test[0] != "CMD":
        raise ValueError(f"service {name}: a healthcheck that needs a shell")
    return Service(
        name=name,
        image=given["image"],
        user=given.get("user"),
        read_only=given.get("read_only", False),
        tmpfs=given.get("tmpfs", ()),
        command=tuple(map(str, given.get("command", ()))),
        environment={key: str(value) for key, value in given.get("environment", {}).items()},
        volumes=mounts,
        secrets={secret: secrets[secret] for secret in given.get("secrets", ())},
        ports=[
            Port(host, int(out), int(into))
            for host, out, into in (text.split(":") for text in given.get("ports", ()))
        ],
        depends_on=depends,
        health=tuple(test[1:]),
        stop_grace_s=float(str(given.get("stop_grace_period", "10s")).removesuffix("s")),
        is_job=given.get("restart") == "no",
    )
