"""`fastgw config`: declarative files checked, imported, exported, compared and converted.

Kong's names of the commands (`db_import`, `db_export`) and its words work too.
"""

from __future__ import annotations

import asyncio
import gc
import getpass
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastgw.cli.common import find_conf, load, settings_options
from fastgw.errors import DeclarativeError
from fastgw.settings import Role, find_role

if TYPE_CHECKING:
    from fastgw.cp.storage.base import SqlStorage
    from fastgw.cp.storage.contract import ImportCounts
    from fastgw.model.entities import Row

_FILE = click.argument("file", type=click.Path(path_type=Path))


class _Group(click.Group):
    """Knows Kong's names of the commands as well."""

    _ALIASES = {"db_import": "import", "db_export": "export", "db-import": "import", "db-export": "export"}

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, self._ALIASES.get(name, name))


@click.group(cls=_Group)
def config() -> None:
    """Check, import, export, compare and convert declarative files.

    \b
      fastgw config parse kong.yml          is it right? all faults with their lines
      fastgw config diff kong.yml           what would an import change?
      fastgw config import kong.yml         add and change; --replace removes what is not in it
      fastgw config export all.yml          write what the database holds
      fastgw config convert old.yml new.yml   formats 1.1 and 2.1 to 3.0

    A SQLite database belongs to the control plane that runs on it: stop that first, or use its Admin API
    (POST /config).
    """


@config.command()
@_FILE
@settings_options
def parse(file: Path, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Check a file; say every fault with its place and line."""
    _read(file, conf, sets)
    click.echo("parse successful")


@config.command("import")
@_FILE
@click.option("--replace", is_flag=True, help="Remove what is not in the file.")
@settings_options
def import_(file: Path, conf: Path | None, sets: Mapping[str, str], replace: bool) -> None:
    """Add and change what the file says, in one transaction. Nothing is removed without --replace."""
    with _progress() as tell:
        tell(f"reading {file}", None, None)
        rows = _read(file, conf, sets)
    click.echo("parse successful, beginning import")
    storage = _storage(conf, sets)
    with _progress() as tell:
        tell("comparing with what is stored", None, None)
        counts = asyncio.run(_import(storage, rows, replace=replace, tell=partial(tell, "writing rows")))
    click.echo(f"import successful: {_said(counts)}")


@config.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@settings_options
def export(file: Path | None, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Write the database as a declarative file (default kong.yml; - is standard output).

    The file holds secrets: it is readable by its owner alone. An existing file is not overwritten.
    """
    from fastgw.model.declarative_export import export_document  # noqa: PLC0415

    target = Path("kong.yml") if file is None else file
    _check_new(target)
    storage = _storage(conf, sets)
    rows = asyncio.run(_load(storage))
    _write(target, export_document(rows, now_s=time.time()))
    if str(target) != "-":
        click.echo(f"exported to {target}")


@config.command()
@_FILE
@click.argument("other", type=click.Path(path_type=Path), required=False)
@click.option("--replace", is_flag=True, help="Count what an import with --replace would remove, too.")
@settings_options
def diff(file: Path, other: Path | None, conf: Path | None, sets: Mapping[str, str], replace: bool) -> None:
    """Say what FILE would change in OTHER, or in the database; exit code 2 when there is something."""
    rows = _read(file, conf, sets)
    old = _read(other, conf, sets) if other is not None else asyncio.run(_load(_storage(conf, sets)))
    changes = list(_changes(old, rows, removals=replace or other is not None))
    for change in changes:
        click.echo(change)
    if changes:
        sys.exit(2)
    click.echo("no changes")


@config.command()
@_FILE
@click.argument("target", type=click.Path(path_type=Path), required=False)
@settings_options
def convert(file: Path, target: Path | None, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Write a file of format 1.1 or 2.1 in format 3.0 (default: to standard output)."""
    from fastgw.model.declarative_export import export_document  # noqa: PLC0415

    target = Path("-") if target is None else target
    _check_new(target)
    _write(target, export_document(_read(file, conf, sets), now_s=time.time()))


def _read(path: Path, conf: Path | None, sets: Mapping[str, str]) -> dict[str, list[Row]]:
    from fastgw.model.declarative import parse_declarative, read_file  # noqa: PLC0415

    if path.suffix not in (".yml", ".yaml", ".json"):
        fault = f"unknown file type: {path.name}. (Accepted types: json, yaml)"
        raise DeclarativeError(str(path), [("the file", fault)])
    # Rows make no cycles, and looking for some among a million of them takes seconds, now and later.
    gc.disable()
    try:
        return parse_declarative(
            read_file(path),
            source=str(path),
            is_json=path.suffix == ".json",
            created_at_s=int(time.time()),
            flavor=load(_role(conf, sets), conf, sets, warn=False).router_flavor,
        )
    except DeclarativeError as error:
        click.echo(f"Error: Failed parsing: {path}", err=True)
        for where, fault in error.faults:
            click.echo(f"  {where}: {fault}", err=True)
        sys.exit(1)
    finally:
        gc.freeze()
        gc.enable()


def _role(conf: Path | None, sets: Mapping[str, str]) -> Role:
    """The role whose settings count for a file: a node without a database has files, too."""
    return find_role(file=find_conf(conf), flags=sets) or "data_plane"


def _storage(conf: Path | None, sets: Mapping[str, str]) -> SqlStorage:
    from fastgw.cp.storage import make_storage  # noqa: PLC0415

    return make_storage(load("control_plane", conf, sets))


async def _import(
    storage: SqlStorage,
    rows: Mapping[str, list[Row]],
    *,
    replace: bool,
    tell: Callable[[int, int], None],
) -> ImportCounts:
    await storage.open()
    try:
        async with storage.write(f"{_user()}, fastgw config import") as writer:
            return await writer.import_rows(rows, replace=replace, on_progress=tell)
    finally:
        await storage.close()


def _user() -> str:
    """Who runs this command, for the history."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as containers have
        return f"user {os.getuid()}"


@contextmanager
def _progress() -> Iterator[Callable[[str, int | None, int | None], None]]:
    """Gives what shows how far the work is (what, done, of how many), to people at a terminal only."""
    if not sys.stderr.isatty():
        yield lambda what, done, all_: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda what, done, all_: shown.update(task, description=what, completed=done or 0, total=all_)


async def _load(storage: SqlStorage) -> dict[str, list[Row]]:
    await storage.open()
    try:
        return (await storage.load_all())[1]
    finally:
        await storage.close()


def _said(counts: ImportCounts) -> str:
    return ", ".join(f"{count} {what}" for what, count in zip(counts._fields, counts, strict=True))


def _changes(old: Mapping[str, list[Row]], new: Mapping[str, list[Row]], *, removals: bool) -> list[str]:
    from fastgw.model.entities import ENTITIES  # noqa: PLC0415

    lines = []
    times = ("created_at", "updated_at")
    for kind, entity in ENTITIES.items():
        before = {row["id"]: row for row in old.get(kind, ())}
        after = {row["id"]: row for row in new.get(kind, ())}
        for id_, row in after.items():
            was = before.get(id_)
            shown = row.get(entity.endpoint_key or "id") or id_
            if was is None:
                lines.append(f"+ {kind} {shown}")
            else:
                fields = [name for name in row if name not in times and was.get(name) != row[name]]
                if fields:
                    lines.append(f"~ {kind} {shown}: {', '.join(fields)}")
        if removals:
            gone = (row for id_, row in before.items() if id_ not in after)
            lines += [f"- {kind} {row.get(entity.endpoint_key or 'id') or row['id']}" for row in gone]
    return lines


def _check_new(target: Path) -> None:
    if str(target) != "-" and target.exists():
        raise click.ClickException(f"{target} exists already: name another file, or remove it")


def _write(target: Path, document: Mapping[str, Any]) -> None:
    from fastgw.model.declarative_export import to_json, to_yaml  # noqa: PLC0415

    text = to_json(document) if target.suffix == ".json" else to_yaml(document)
    if str(target) == "-":
        click.echo(text, nl=False)
        return
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
