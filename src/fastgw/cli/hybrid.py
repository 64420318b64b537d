"""`fastgw hybrid`: the key pair that control plane and data planes share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from fastgw.errors import CertificateError

_DEFAULT_PATHS: Final = ("cluster.crt", "cluster.key")
DEFAULT_DAYS: Final = 1095
_MAX_DAYS: Final = 36_500


@click.group()
def hybrid() -> None:
    """Make the key pair that control plane and data planes share."""


@click.command("gen-cert")
@click.argument("cert", required=False, type=click.Path(path_type=Path))
@click.argument("key", required=False, type=click.Path(path_type=Path))
@click.option(
    "-d",
    "--days",
    type=click.IntRange(1, _MAX_DAYS),
    default=DEFAULT_DAYS,
    show_default=True,
    help="How long the certificate is valid.",
)
@click.option("--keep", is_flag=True, help="End well when both files are there already; for jobs.")
def gen_cert(cert: Path | None, key: Path | None, days: int, keep: bool) -> None:
    """Write a new certificate and its key, by default to ./cluster.crt and ./cluster.key.

    Give both paths or none. Files that exist are never overwritten. The key's mode is 0600.
    """
    if (cert is None) != (key is None):
        raise click.UsageError("both the certificate's and the key's path are needed, or none of them")
    cert_path = cert or Path(_DEFAULT_PATHS[0])
    key_path = key or Path(_DEFAULT_PATHS[1])
    if keep and cert_path.exists() and key_path.exists():
        click.echo(f"{cert_path} and {key_path} are there already, nothing to do")
        return
    write_pair(cert_path, key_path, days)
    click.echo(f"wrote the certificate {cert_path} and its key {key_path}; copy both to every node")


# Kong's spelling, for scripts that have it.
hybrid.add_command(gen_cert)
hybrid.add_command(gen_cert, "gen_cert")


def write_pair(cert_path: Path, key_path: Path, days: int = DEFAULT_DAYS) -> None:
    """Make a pair and write it to two new files.

    Raises:
        CertificateError: a file exists already or cannot be written; neither is left behind then.
    """
    from fastgw.tls.generate import generate_cluster_pair

    pair = generate_cluster_pair(days)
    write_new(key_path, pair.key_pem, 0o600)
    try:
        write_new(cert_path, pair.certificate_pem, 0o644)
    except CertificateError:
        # A key without its certificate would only be in the way of the next try.
        key_path.unlink()
        raise


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Create *path* with *mode* from the start, so that a key is at no moment readable by others."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise CertificateError(f"{path} exists already, and is not overwritten") from None
    except OSError as exc:
        raise CertificateError(f"cannot write {path}: {os.strerror(exc.errno or 0).lower()}") from None
    with open(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(content)
        file.flush()
        os.fsync(fd)
