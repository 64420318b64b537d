"""`fastgw pki`: the cluster's own authority, which gives every node a certificate of its own."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from fastgw.cli.common import load, settings_options
from fastgw.errors import CertificateError, SettingsError

if TYPE_CHECKING:
    from fastgw.cp.storage.base import SqlStorage
    from fastgw.cp.storage.contract import Connection
    from fastgw.settings import Settings
    from fastgw.tls.authority import Authority

T = TypeVar("T")

_MOST_TOKEN_S: Final = 7 * 86400


@click.group()
def pki() -> None:
    """Give every node a certificate of its own, from the cluster's own authority.

    \b
    Once, where the control plane runs:
      fastgw pki init                      makes the authority, in the database
      fastgw cp --set cluster_mtls=pki     the control plane makes its own certificate

    \b
    For each data plane:
      fastgw pki token > token             where the control plane runs: a token, good once
      fastgw pki join --control-plane HOST:8005 --token - < token
      fastgw dp --set cluster_mtls=pki --set cluster_control_plane=HOST:8005

    Data planes renew their certificates by themselves. A token carries the fingerprint of the authority, so
    that it is shown to no impostor. All but 'join' work on the database that the control plane's settings
    name, whether it runs or not; running control planes take notice within a second.
    """


@pki.command()
@settings_options
def init(conf: Path | None, sets: Mapping[str, str]) -> None:
    """Make the authority, and a key that signs configurations; the database keeps both.

    Set pki_secret (by FASTGW_PKI_SECRET_FILE, say) to have the key encrypted there; every control plane then
    needs the same pki_secret.
    """
    from fastgw.cp.pki import management, signing
    from fastgw.cp.storage import make_storage

    settings = load("control_plane", conf, sets)

    async def make(storage: SqlStorage) -> Authority:
        if storage.dialect == "sqlite" and (await storage.migrator().state()).needs_bootstrap:
            settings.sqlite_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await storage.migrator().bootstrap()
        async with storage.beside() as connection:
            made = await management.make_authority(connection, settings.pki_secret, _now())
            if not await signing.list_keys(connection):
                await signing.rotate_key(connection, settings.pki_secret, _now())
            return made

    storage = make_storage(settings)
    authority = asyncio.run(make(storage))
    until = authority.certificate.not_valid_after_utc
    click.echo(f"{storage.where}: made the authority {authority.id}, good until {until:%Y-%m-%d}")
    click.echo(
        "start control planes with cluster_mtls = pki, and let data planes join with 'fastgw pki token'"
    )
    if not settings.pki_secret:
        click.echo("its key is not encrypted in the database: set pki_secret before, where it has to be")


@pki.command()
@click.option("--name", help="What the data plane is to be called; lets it replace one of that name.")
@click.option("--valid", default="1h", show_default=True, help="How long the token is good: 90s, 30m, 24h.")
@settings_options
def token(conf: Path | None, sets: Mapping[str, str], name: str | None, valid: str) -> None:
    """Print a token with which one data plane may join.

    The database keeps a hash of it. Who has the token before it is used has a node in the cluster: hand it
    over as a secret, in a file or the environment (FASTGW_CLUSTER_TOKEN, FASTGW_CLUSTER_TOKEN_FILE).
    """
    from fastgw.cp.pki import management
    from fastgw.settings import parsers

    try:
        valid_s = parsers.seconds(valid)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--valid") from None
    if not 1 <= valid_s <= _MOST_TOKEN_S:
        raise click.BadParameter(
            f"{valid!r} is not between 1s and {_MOST_TOKEN_S // 86400}d", param_hint="--valid"
        )
    settings = load("control_plane", conf, sets)
    made = _on_records(
        settings,
        lambda connection: management.make_token(
            connection, settings.pki_secret, name=name, valid_s=valid_s, now=_now()
        ),
    )
    click.echo(str(made))


@pki.command()
@click.option(
    "--control-plane",
    required=True,
    metavar="HOST:PORT,...",
    help="The cluster port to join at; of several, the first that answers.",
)
@click.option(
    "--token",
    "token_text",
    help="What 'fastgw pki token' printed; '-' reads it from standard input, which keeps it out of the list "
    "of processes.  [default: cluster_token]",
)
@click.option("--name", help="What to call this data plane (default: the name of the host).")
@settings_options
def join(
    conf: Path | None, sets: Mapping[str, str], control_plane: str, token_text: str | None, name: str | None
) -> None:
    """Join a cluster as a data plane.

    The token may also stand in FASTGW_CLUSTER_TOKEN, or in the file that FASTGW_CLUSTER_TOKEN_FILE names.

    Makes a key, which stays here, and gets a certificate for it, into PREFIX/pki. 'fastgw dp' with
    cluster_token does the same at its first start.
    """
    from fastgw.dp import enrolment
    from fastgw.dp.identity import load_identity
    from fastgw.dp.membership import IDENTITY_FILE, name_from, store_identity_file
    from fastgw.dp.pledge import Pledge
    from fastgw.settings import parsers
    from fastgw.tls.authority import NodeKey
    from fastgw.wire.enrolment import Token

    try:
        control_planes = parsers.host_ports(control_plane)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--control-plane") from None
    if token_text == "-":
        token_text = sys.stdin.readline()
    settings = load("data_plane", conf, sets)
    if not (token_text or settings.cluster_token):
        raise click.UsageError("a token is needed: --token - reads it from standard input")
    parsed = Token.parse(token_text or settings.cluster_token)
    try:
        settings.prefix.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"prefix {settings.prefix}: {os.strerror(error.errno or 0).lower()}") from None
    node = load_identity(settings.prefix)
    called = name or name_from(socket.gethostname())
    key = NodeKey()
    identity = asyncio.run(
        enrolment.at_any(
            control_planes,
            lambda address: enrolment.join(address, parsed, node_id=node.id, name=called, key=key),
        )
    )
    path = settings.prefix / IDENTITY_FILE
    store_identity_file(path, identity)
    # Whoever joins a cluster means its configuration to be served.
    Pledge(settings.prefix / "dp").replace(identity.cluster_id)
    until = identity.pair().not_after
    click.echo(f"joined the cluster {identity.cluster_id} until {until:%Y-%m-%d %H:%M} UTC, as {path} proves")
    named = ", ".join(control_planes)
    click.echo(f"start the data plane with cluster_mtls = pki and cluster_control_plane = {named}")


@pki.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Directory to write to.")
@click.option("--control-plane", "is_control_plane", is_flag=True, help="For a control plane (serverAuth).")
@click.option("--node-id", help="The id that the data plane's certificate is to prove (its fastgw.id).")
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True)
@settings_options
def issue(
    conf: Path | None,
    sets: Mapping[str, str],
    name: str,
    out: Path,
    is_control_plane: bool,
    node_id: str | None,
    days: int,
) -> None:
    """Write a key pair for a node that cannot join by itself, such as a data plane of Kong.

    Writes NAME.crt, NAME.key (mode 0600) and ca.crt, for cluster_cert, cluster_cert_key and cluster_ca_cert.
    Nobody renews it: issue it again, the files are picked up when they change.
    """
    from fastgw.cli.hybrid import write_new
    from fastgw.cp.pki import management, records

    settings = load("control_plane", conf, sets)

    async def make(connection: Connection) -> tuple[bytes, str, str]:
        issued, key, chain = await management.issue(
            connection,
            settings.pki_secret,
            name=name,
            node_id=node_id,
            is_control_plane=is_control_plane,
            lifetime=dt.timedelta(days=days),
            now=_now(),
        )
        trusted = [one for one in await records.list_authorities(connection) if one.state != "retired"]
        pair = key.pair(issued.certificate, *chain)
        return pair.certificate_pem, key.pem, "".join(one.certificate for one in trusted)

    certificate, key, authorities = _on_records(settings, make)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "ca.crt").write_text(authorities)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise CertificateError(f"cannot write {out / 'ca.crt'}: {reason}") from None
    write_new(out / f"{name}.key", key.encode(), 0o600)
    write_new(out / f"{name}.crt", certificate, 0o644)
    click.echo(f"wrote {out / name}.crt, {out / name}.key and {out / 'ca.crt'}, valid for {days} days")


@pki.command()
@click.option("--finish", is_flag=True, help="End the rotation: trust the authority before no longer.")
@click.option("--force", is_flag=True, help="With --finish: cut off nodes that still use the one before.")
@settings_options
def rotate(conf: Path | None, sets: Mapping[str, str], finish: bool, force: bool) -> None:
    """Change the authority, with both trusted while nodes move over.

    \b
      fastgw pki rotate            a new authority issues; nodes renew within minutes
      fastgw pki list              until all certificates are of the new one
      fastgw pki rotate --finish   the one before is trusted no longer
    """
    from fastgw.cp.pki import management

    if force and not finish:
        raise click.UsageError("--force goes with --finish")
    settings = load("control_plane", conf, sets)
    if finish:
        gone = _on_records(
            settings, lambda connection: management.finish_rotation(connection, _now(), is_forced=force)
        )
        click.echo(f"the authority {gone.id} is trusted no longer")
        return
    new, before = _on_records(
        settings, lambda connection: management.rotate(connection, settings.pki_secret, _now())
    )
    click.echo(
        f"the authority {new.id} issues now; {before.id} stays trusted until 'fastgw pki rotate --finish'"
    )


@pki.command()
@click.argument("what", metavar="NODE|SERIAL")
@settings_options
def revoke(conf: Path | None, sets: Mapping[str, str], what: str) -> None:
    """Refuse a node from now on, by its id or name, or one certificate by its serial number.

    Its link is cut within a second. A revoked node's id does not come back: remove PREFIX/fastgw.id and
    PREFIX/pki there before it joins anew.
    """
    from fastgw.cp.pki import management

    settings = load("control_plane", conf, sets)
    for one in _on_records(settings, lambda connection: management.revoke(connection, what, _now())):
        click.echo(f"revoked {one.serial} of {one.name}" + (f" ({one.node_id})" if one.node_id else ""))


@pki.group()
def signing() -> None:
    """Show and change the keys that sign configurations.

    \b
    A data plane that has joined with 'fastgw pki join' takes only configurations that are signed by a key
    that it was told then, or by one that such a key endorses. Where certificates are in files:
      fastgw pki signing rotate       makes the first key
      fastgw pki signing list         shows it, for cluster_signing_keys of data planes
    """


@signing.command("list")
@settings_options
def list_signing(conf: Path | None, sets: Mapping[str, str]) -> None:
    """Print the keys that sign, one a line, as cluster_signing_keys takes them."""
    from fastgw.cp.pki.signing import list_keys
    from fastgw.wire.signature import show_public

    for one in _on_records(load("control_plane", conf, sets), list_keys):
        if one.state == "active":
            click.echo(show_public(one.signed.public))


@signing.command("rotate")
@click.option("--finish", is_flag=True, help="End the rotation: the key before signs no longer.")
@settings_options
def rotate_signing(conf: Path | None, sets: Mapping[str, str], finish: bool) -> None:
    """Make a new key, which the one before endorses; both sign until --finish.

    Data planes that have joined are told within about a minute; others take keys from cluster_signing_keys.
    """
    from fastgw.cp.pki.signing import finish_key_rotation, rotate_key

    settings = load("control_plane", conf, sets)
    if finish:
        gone = _on_records(settings, finish_key_rotation)
        click.echo(f"{gone.id} signs no longer")
        return
    made = _on_records(settings, lambda connection: rotate_key(connection, settings.pki_secret, _now()))
    endorsed = made.signed.endorsement
    click.echo(f"{made.id} signs now" + (f", endorsed by {endorsed.key_id}" if endorsed else ""))


@pki.command("list")
@settings_options
def list_(conf: Path | None, sets: Mapping[str, str]) -> None:
    """Show authorities, and the certificates that are valid."""
    from fastgw.cp.pki import records

    settings = load("control_plane", conf, sets)

    async def read(connection: Connection) -> None:
        for authority in await records.list_authorities(connection):
            made = dt.datetime.fromtimestamp(authority.created_at, dt.UTC)
            click.echo(f"authority {authority.id}  {authority.state:8}  made {made:%Y-%m-%d %H:%M} UTC")
        for one in await records.list_certificates(connection, _now().timestamp()):
            until = dt.datetime.fromtimestamp(one.not_after, dt.UTC)
            state = "revoked" if one.revoked_at is not None else f"until {until:%Y-%m-%d %H:%M} UTC"
            node = one.node_id or "no node id"
            click.echo(f"{one.serial:40}  {one.authority}  {state:28}  {one.name} ({node})")

    _on_records(settings, read)


def _on_records(settings: Settings, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Do *work* in one transaction on the control plane's database, which may be in use."""
    from fastgw.cp.storage import make_storage

    async def run() -> T:
        async with make_storage(settings).beside() as connection:
            return await work(connection)

    return asyncio.run(run())


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
