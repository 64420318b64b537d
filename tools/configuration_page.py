"""Write the tables of docs/configuration.md from the table of properties; a test holds the page to them.

.venv/bin/python tools/configuration_page.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fastgw.settings import PROPERTIES, Property, Role

PAGE: Final = Path(__file__).parent.parent / "docs" / "configuration.md"

_MARKS: Final = {"both": "both roles", "control_plane": "the control plane", "data_plane": "the data plane"}
_END: Final = "<!-- end -->"
# Of the prefix, which differs from user to user.
_PREFIX_DEFAULT: Final = "`/var/lib/fastgw` for root, else `$XDG_STATE_HOME/fastgw` (`~/.local/state/fastgw`)"


def make_table(properties: Sequence[Property]) -> str:
    """Make the Markdown table of *properties*, in their order."""
    lines = ["| property | default | meaning |", "|---|---|---|"]
    for item in properties:
        default = f"`{item.default}`" if item.default else "none"
        if item.name == "prefix":
            default = _PREFIX_DEFAULT
        meaning = item.help or item.name.replace("pg_", "PostgreSQL: ")
        if item.aliases:
            meaning += "; also " + ", ".join(f"`{alias}`" for alias in item.aliases)
        lines.append(f"| `{item.name}` | {default} | {meaning} |")
    return "\n".join(lines)


def select(key: str) -> list[Property]:
    """Choose the properties of one table: those that only one role reads, or those of both."""
    roles: dict[str, tuple[Role, ...]] = {
        "both": ("control_plane", "data_plane"),
        "control_plane": ("control_plane",),
        "data_plane": ("data_plane",),
    }
    return [item for item in PROPERTIES if item.roles == roles[key]]


def fill(page: str) -> str:
    """Put the tables between the page's marks, in place of what stands there."""
    for key, what in _MARKS.items():
        begin = f"<!-- properties of {what}: generated -->\n"
        before, found, rest = page.partition(begin)
        _, ends, after = rest.partition(_END)
        if not (found and ends):
            raise ValueError(f"{PAGE.name} needs the marks {begin.strip()!r} and {_END!r}")
        page = f"{before}{begin}\n{make_table(select(key))}\n\n{_END}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text("utf-8")), "utf-8")
