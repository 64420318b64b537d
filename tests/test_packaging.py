"""What the image is made of against what the package asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parent.parent
_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)", re.MULTILINE)


def test_the_image_pins_every_dependency_within_its_bounds() -> None:
    text = (ROOT / "docker" / "requirements.txt").read_text("utf-8")
    pinned = {canonicalize_name(found["name"]): found["version"] for found in _PINNED.finditer(text)}
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    for requirement in map(Requirement, asked):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name}: make docker/requirements.txt anew"
        assert requirement.specifier.contains(version), f"{requirement}: {version} is pinned"
    assert text.count("--hash=sha256:") >= len(pinned)
