"""The documentation against the code: tables that are generated or mirrored, and links between pages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from fastgw.settings import PROPERTIES
from fastgw.wire import messages
from fastgw.wire.states import ControlState, DataState
from tests.test_layers import RANKS
from tools import configuration_page, entities_page

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "bench" / "README.md",
        ROOT / "docker" / "README.md",
        ROOT / "deploy" / "helm" / "fastgw" / "README.md",
    ]
)

_LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]*)(?:#(?P<anchor>[^)]+))?\)")
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_properties_are_those_of_the_table() -> None:
    page = read("docs/configuration.md")
    assert page == configuration_page.fill(page), "run tools/configuration_page.py"
    for item in PROPERTIES:
        assert page.count(f"| `{item.name}` |") == 1


def test_the_entities_are_those_of_the_table() -> None:
    assert read("docs/entities.md") == entities_page.make_page(), "run tools/entities_page.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for match in _LINK.finditer(_FENCED.sub("", page.read_text("utf-8"))):
        target = (page.parent / match["path"]).resolve() if match["path"] else page
        assert target.exists(), match[0]
        if match["anchor"]:
            assert match["anchor"] in anchors(target), match[0]


def test_rooms_are_those_that_the_layer_test_knows() -> None:
    rooms = read("docs/architecture.md").partition("## Rooms")[2].partition("\n## ")[0]
    told = {
        name: int(rank)
        for rank, names in re.findall(r"^\| (\d) \| ([^|]*) \|", rooms, re.MULTILINE)
        for name in re.findall(r"`(\w+)", names)
    }
    assert told == RANKS


def test_messages_and_states_are_those_of_the_link() -> None:
    page = read("docs/wire.md")
    told = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page, re.MULTILINE))
    real = {kind.__name__: str(kind.__struct_config__.tag) for kind in messages.Message.__subclasses__()}
    assert told == real
    for state in (*ControlState, *DataState):
        assert state.name in page


def test_fragments_of_the_changelog_are_ones_that_towncrier_reads() -> None:
    types = [kind["directory"] for kind in tomllib.loads(read("pyproject.toml"))["tool"]["towncrier"]["type"]]
    for path in (ROOT / "changes").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(types)})\.md", path.name), path.name
            assert path.read_text("utf-8").strip()


def test_the_readme_shows_the_two_commands() -> None:
    page = read("README.md")
    assert "make run" in page
    assert "make test" in page
