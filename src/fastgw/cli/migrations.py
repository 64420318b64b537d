"""`fastgw migrations`: prepare and upgrade the control plane's database, with Kong's words and exit codes."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fastgw.cli.common import load, settings_options

if TYPE_CHECKING:
    from fastgw.cp.storage.base import SqlStorage
    from fastgw.cp.storage.migrations import Migration

# Kong's exit codes of `list`; deployment scripts branch on them.
NEEDS_BOOTSTRAP: Final = 3
PENDING: Final = 4
NEW: Final = 5

_quiet_option = click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")


@click.group()
def migrations() -> None:
    """Prepare and upgrade the control plane's database.

    \b
    The first time, on PostgreSQL (a SQLite file prepares itself):
      fastgw migrations bootstrap

    \b
    An upgrade without a pause, old and new control planes side by side:
      fastgw migrations up            with the new version, while the old one runs
      ... replace the control planes ...
      fastgw migrations finish        when no old one runs any more

    Every command may be run twice, or by two machines at once: the second finds nothing to do.
    """


@migrations.command()
@click.option(
    "--cluster-id",
    type=click.UUID,
    help="Take the place of this cluster's lost database: its data planes stay its own.",
)
@_quiet_option
@settings_options
def bootstrap(conf: Path | None, sets: Mapping[str, str], quiet: bool, cluster_id: uuid.UUID | None) -> None:
    """Create the tables in an empty database.

    A database that has them is left as it is, and that is no error.

    A new database is a new cluster, which data planes of another one refuse. Where it replaces one that was
    lost, give it the id of that cluster ('fastgw cluster id', and each data plane's /status, name it), and
    import the configuration: until then data planes keep what they serve.
    """
    say, storage = _prepare(conf, sets, quiet)
    done = asyncio.run(storage.migrator().bootstrap(str(cluster_id) if cluster_id is not None else None))
    if done:
        say(f"{storage.where}: bootstrapped with {_names(done)}")
    else:
        say(f"{storage.where}: already bootstrapped, nothing to do")


@migrations.command()
@_quiet_option
@settings_options
def up(conf: Path | None, sets: Mapping[str, str], quiet: bool) -> None:
    """Run the first half of new migrations.

    Control planes of the version before go on working with the database.
    """
    say, storage = _prepare(conf, sets, quiet)
    done = asyncio.run(storage.migrator().up())
    if done:
        say(f"{storage.where}: {_names(done)} up")
        say("run 'fastgw migrations finish' when no older control plane runs any more")
    else:
        say(f"{storage.where}: no new migrations, nothing to do")


@migrations.command()
@_quiet_option
@settings_options
def finish(conf: Path | None, sets: Mapping[str, str], quiet: bool) -> None:
    """Run the second half of pending migrations.

    Control planes of the version before cannot start on the database after this.
    """
    say, storage = _prepare(conf, sets, quiet)
    done = asyncio.run(storage.migrator().finish())
    if done:
        say(f"{storage.where}: {_names(done)} finished")
    else:
        say(f"{storage.where}: no pending migrations, nothing to do")


@migrations.command("list")
@_quiet_option
@settings_options
@click.pass_context
def list_(context: click.Context, conf: Path | None, sets: Mapping[str, str], quiet: bool) -> None:
    """Show what the database has seen.

    \b
    Exit codes:
      0  up to date
      3  empty: run 'fastgw migrations bootstrap'
      4  pending: run 'fastgw migrations finish'
      5  new ones: run 'fastgw migrations up'
      1  anything else, such as a database that does not answer
    """
    say, storage = _prepare(conf, sets, quiet)
    state = asyncio.run(storage.migrator().state())
    if state.needs_bootstrap:
        say(f"{storage.where}: empty; run 'fastgw migrations bootstrap'")
        context.exit(NEEDS_BOOTSTRAP)
    for word, found in (("executed", state.executed), ("pending", state.pending), ("new", state.new)):
        if found:
            say(f"{word}: {_names(found)}")
    if state.unknown:
        state.check_usable()
    if state.new:
        say("run 'fastgw migrations up'")
        context.exit(NEW)
    if state.pending:
        say("run 'fastgw migrations finish' when no older control plane runs any more")
        context.exit(PENDING)


@migrations.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_quiet_option
@settings_options
@click.pass_context
def reset(context: click.Context, conf: Path | None, sets: Mapping[str, str], quiet: bool, yes: bool) -> None:
    """Remove all tables and what is in them.

    Asks first; where nobody can be asked (no terminal), --yes is needed. Stop the control planes before.
    """
    say, storage = _prepare(conf, sets, quiet)
    if not yes:
        if not sys.stdin.isatty():
            click.echo(f"fastgw: {storage.where}: reset removes everything; confirm with --yes", err=True)
            context.exit(1)
        click.confirm(f"{storage.where}: remove all tables and everything in them?", abort=True)
    if asyncio.run(storage.migrator().reset()):
        say(f"{storage.where}: everything removed")
    else:
        say(f"{storage.where}: already empty, nothing to do")


def _prepare(
    conf: Path | None, sets: Mapping[str, str], quiet: bool
) -> tuple[Callable[[str], None], SqlStorage]:
    """Make the storage that the settings name, not opened, and a way to talk."""
    from fastgw.cp.storage import make_storage

    def say(line: str) -> None:
        if not quiet:
            click.echo(line)

    return say, make_storage(load("control_plane", conf, sets))


def _names(found: Sequence[Migration]) -> str:
    return ", ".join(map(str, found))
