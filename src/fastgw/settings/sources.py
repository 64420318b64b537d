"""Where settings are given: file, environment and flags, each turned into `Given` values.

A value that is empty after trimming counts as not given, as `${VARIABLE:-}` in compose files makes it.
`FASTGW_<NAME>_FILE` names a file with the value in it (for secrets). `KONG_<NAME>` and its `_FILE` stand in
where `FASTGW_` is silent. Kubernetes puts `<SERVICE>_PORT…` and `<SERVICE>_SERVICE_…` into every container
next to a Service, so names of that shape are nobody's property.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastgw.settings.kong_names import is_kong_name, refusal_of
from fastgw.settings.table import PROPERTIES

MAX_FILE_BYTES: Final = 1 << 20

_SERVICE_LINK = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_CANONICAL: Final[Mapping[str, str]] = {
    spelling: item.name for item in PROPERTIES for spelling in (item.name, *item.aliases)
}
# FASTGW_DEBUG is read by the build, FASTGW_CONF names the file itself, KONG_NGINX_DAEMON is for `kong start`.
_NOT_PROPERTIES: Final = frozenset({"debug", "conf", "nginx_daemon"})


@dataclass(frozen=True, slots=True)
class Given:
    """A value and, for messages, where it came from."""

    text: str
    source: str


@dataclass(slots=True)
class Gathered:
    """What all sources gave, before any of it is parsed."""

    values: dict[str, Given] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    meaningless: list[str] = field(default_factory=list)
    """Kong's names without meaning here, as they were written."""
    kong_variables: list[str] = field(default_factory=list)
    """Variables with Kong's prefix that were taken."""
    likely_typos: list[str] = field(default_factory=list)
    """Unknown variables with Kong's prefix that look like a property."""


def gather(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Gathered:
    """Collect what is given; a later source replaces an earlier one."""
    gathered = Gathered()
    if file is not None:
        _gather_file(gathered, file)
    _gather_environment(gathered, environ)
    for name, value in flags.items():
        _add(gathered, name, value, f"flag --set {name}")
    return gathered


def closest(name: str) -> str | None:
    """Find the property whose spelling is nearest to *name*, if one is near."""
    matches = difflib.get_close_matches(name, _CANONICAL, n=1, cutoff=0.75)
    return matches[0] if matches else None


def _add(gathered: Gathered, name: str, value: str, source: str) -> None:
    canonical = _CANONICAL.get(name)
    if canonical is not None:
        if value.strip():
            gathered.values[canonical] = Given(value.strip(), source)
    elif is_kong_name(name):
        if reason := refusal_of(name, value):
            gathered.faults.append(f"{source}: {name}: {reason}")
        elif value.strip():
            gathered.meaningless.append(name)
    else:
        near = closest(name)
        hint = f" (did you mean {near}?)" if near else ""
        gathered.faults.append(f"{source}: there is no property {name!r}{hint}")


def _gather_file(gathered: Gathered, file: Path) -> None:
    text = _read(gathered, file, f"file {file}")
    seen: dict[str, int] = {}
    for number, line in enumerate((text or "").splitlines(), start=1):
        content = _COMMENT.sub("", line).strip()
        if not content:
            continue
        source = f"file {file}:{number}"
        name, equals, value = (part.strip() for part in content.partition("="))
        if not equals or not name:
            gathered.faults.append(f"{source}: expected 'name = value'")
            continue
        if name in seen:
            gathered.faults.append(f"{source}: {name} already stands in line {seen[name]}")
            continue
        seen[name] = number
        _add(gathered, name, value.replace("\\#", "#"), source)


def _gather_environment(gathered: Gathered, environ: Mapping[str, str]) -> None:
    ours = dict(_variables(gathered, environ, "FASTGW_"))
    spoken_for = {_CANONICAL.get(name, name) for name in ours}
    for name, given in _variables(gathered, environ, "KONG_"):
        variable = given.source.rpartition(" ")[2]
        if _CANONICAL.get(name, name) in spoken_for:
            continue
        if name in _CANONICAL:
            gathered.kong_variables.append(variable)
        elif not is_kong_name(name):
            # Images and charts set variables with this prefix that are no properties (KONG_VERSION).
            if near := closest(name):
                gathered.likely_typos.append(
                    f"{variable} is unknown and ignored (did you mean KONG_{near.upper()}?)"
                )
            continue
        _add(gathered, name, given.text, given.source)
    for name, given in ours.items():
        _add(gathered, name, given.text, given.source)


def _variables(gathered: Gathered, environ: Mapping[str, str], prefix: str) -> Iterator[tuple[str, Given]]:
    """Yield (name, value) of all variables with *prefix*, `_FILE` already read."""
    for variable in sorted(environ):
        name, value = variable.removeprefix(prefix).lower(), environ[variable]
        if name == variable.lower() or not value.strip() or name in _NOT_PROPERTIES:
            continue
        if name not in _CANONICAL and not is_kong_name(name) and _SERVICE_LINK.fullmatch(variable):
            continue
        source = f"environment variable {variable}"
        whole = name.removesuffix("_file")
        if whole == name or whole not in _CANONICAL:
            yield name, Given(value, source)
        elif environ.get(prefix + whole.upper(), "").strip():
            gathered.faults.append(f"{source}: {prefix}{whole.upper()} is set as well, give one of the two")
        elif (content := _read(gathered, Path(value), source)) is None:
            continue
        elif not content.strip():
            # A secret that was not mounted must not look like one that is not wanted.
            gathered.faults.append(f"{source}: {value} is empty")
        else:
            yield whole, Given(content, source)


def _read(gathered: Gathered, file: Path, source: str) -> str | None:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"is larger than {MAX_FILE_BYTES} bytes")
        return data.decode("utf-8")
    except OSError as error:
        gathered.faults.append(f"{source}: cannot read {file}: {(error.strerror or str(error)).lower()}")
    except UnicodeDecodeError:
        gathered.faults.append(f"{source}: {file} is not UTF-8 text")
    except ValueError as error:
        gathered.faults.append(f"{source}: {file} {error}")
    return None
