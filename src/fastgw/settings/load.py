"""Load settings: parse what the sources gave, check what takes more than one property, freeze.

All faults are raised together, each naming its source; what is accepted without effect becomes one warning
per kind, never one per name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast, get_args

from fastgw.errors import SettingsError
from fastgw.settings.listen import Listen
from fastgw.settings.sources import Gathered, gather
from fastgw.settings.table import PROPERTIES, Role, Settings, default_prefix

_COMMANDS: Final[Mapping[str, str]] = {"control_plane": "fastgw cp", "data_plane": "fastgw dp"}
_REQUIRED_LISTENS: Final[Mapping[Role, tuple[str, ...]]] = {
    "control_plane": ("admin_listen", "cluster_listen"),
    "data_plane": ("proxy_listen",),
}
# cluster_listen is TLS always; the door of this one speaks plain HTTP in this version.
_PLAIN_LISTENS: Final = ("status_listen",)


def load_settings(
    role: Role,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings of a process in *role*: defaults < file < environment < flags.

    Raises:
        SettingsError: all faults at once, joined by "; ", each with its source.
    """
    gathered = gather(file, environ, flags or {})
    faults, warnings = gathered.faults, _source_warnings(gathered)
    values = _parse(gathered)
    _check_role(role, gathered, faults)
    values["role"] = role
    if role == "control_plane" and "status_listen" not in gathered.values:
        # Both roles on one machine would meet at the default's port.
        values["status_listen"] = ()
    values["sqlite_path"] = values["prefix"] / values["sqlite_path"]
    _check_listens(role, gathered, values, faults, warnings)
    if role == "control_plane" and values["database"] == "off":
        faults.append(
            f"{_source(gathered, 'database')}: a control plane needs a database: sqlite or postgres"
        )
    if bool(values["cluster_cert"]) != bool(values["cluster_cert_key"]):
        given = "cluster_cert" if values["cluster_cert"] else "cluster_cert_key"
        faults.append(f"{_source(gathered, given)}: cluster_cert and cluster_cert_key go together")
    for name in ("ssl_cert", "admin_ssl_cert"):
        certificates, keys = values[name], values[f"{name}_key"]
        if len(certificates) != len(keys):
            given = name if certificates else f"{name}_key"
            faults.append(
                f"{_source(gathered, given)}: {name} names {len(certificates)} and {name}_key {len(keys)}: "
                "each certificate needs its key, in the same order"
            )
    if faults:
        raise SettingsError("; ".join(faults))
    return Settings(**values, warnings=tuple(warnings))


def find_role(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, str] | None = None,
) -> Role | None:
    """Say which role the sources name, for commands that serve both; None when they name none.

    Raises:
        SettingsError: a role that does not exist.
    """
    gathered = gather(file, environ, flags or {})
    given = gathered.values.get("role")
    if given is None:
        return None
    for role in get_args(Role):
        if given.text == role:
            return cast("Role", role)
    faults: list[str] = []
    _check_role("control_plane", gathered, faults)
    raise SettingsError(faults[0])


def require_cluster_pair(settings: Settings) -> None:
    """Raise SettingsError unless what cluster_mtls needs is named; for the processes that use the link.

    With pki and no certificate the built-in authority's is meant, which stands in no file.
    """
    if not settings.cluster_cert and settings.cluster_mtls == "shared":
        raise SettingsError(
            "cluster_cert and cluster_cert_key must be provided: make a pair with 'fastgw hybrid gen-cert' "
            "and give the same two files to the control plane and to every data plane"
        )
    if not settings.cluster_cert:
        return
    if settings.cluster_mtls != "shared" and not settings.cluster_ca_cert:
        raise SettingsError(
            f"cluster_ca_cert must be specified when cluster_mtls = {settings.cluster_mtls}: the "
            "certificates of the authorities that issue those of the other side"
        )


def _parse(gathered: Gathered) -> dict[str, Any]:
    """Parse every property; one that is wrong is reported and takes its default for the checks to come."""
    values: dict[str, Any] = {}
    for item in PROPERTIES:
        default = default_prefix() if item.name == "prefix" else item.default
        given = gathered.values.get(item.name)
        if given is not None:
            if given.text.startswith("{vault://"):
                gathered.faults.append(f"{given.source}: {item.name}: references to vaults are not served")
            else:
                try:
                    values[item.name] = item.parse(given.text)
                    continue
                except ValueError as error:
                    reason = "the value is wrong" if item.secret else str(error)
                    gathered.faults.append(f"{given.source}: {item.name}: {reason}")
        values[item.name] = item.parse(default) if default else _EMPTY.get(item.name, "")
    return values


_EMPTY: Final[Mapping[str, Any]] = {
    "admin_token_file": None,
    "admin_cors_origins": (),
    "admin_ssl_cert": (),
    "admin_ssl_cert_key": (),
    "ssl_cert": (),
    "ssl_cert_key": (),
    "trusted_ips": (),
    "dns_resolver": (),
    "dns_valid_ttl": None,
    "cluster_dp_labels": {},
    "cluster_allowed_common_names": frozenset(),
    "declarative_config": None,
}


def _source(gathered: Gathered, name: str) -> str:
    given = gathered.values.get(name)
    return given.source if given else f"default of {name}"


def _check_role(role: Role, gathered: Gathered, faults: list[str]) -> None:
    given = gathered.values.get("role")
    if given is None or given.text == role:
        return
    if given.text == "traditional":
        reason = (
            "the role traditional does not exist here: run 'fastgw cp' and 'fastgw dp', "
            "or 'fastgw quickstart' for both at once"
        )
    elif given.text in _COMMANDS:
        reason = f"role {given.text} contradicts this command ('{_COMMANDS[given.text]}' runs it)"
    else:
        reason = f"role {given.text!r} is not one of control_plane, data_plane"
    faults.append(f"{given.source}: {reason}")


def _check_listens(
    role: Role, gathered: Gathered, values: dict[str, Any], faults: list[str], warnings: list[str]
) -> None:
    without_effect: list[str] = []
    left_out: list[str] = []
    for item in PROPERTIES:
        if item.parse is not Listen.parse or role not in item.roles:
            continue
        listens: tuple[Listen, ...] = values[item.name]
        for listen in listens:
            if listen.http2:
                without_effect.append(f"http2 ({item.name})")
            if listen.proxy_protocol and item.name != "proxy_listen":
                faults.append(
                    f"{_source(gathered, item.name)}: {item.name}: proxy_protocol of {listen} is not served "
                    "in this version, remove the flag"
                )
        if item.name in _PLAIN_LISTENS:
            left_out += [f"{listen} ({item.name})" for listen in listens if listen.ssl]
            values[item.name] = tuple(listen for listen in listens if not listen.ssl)
        if not values[item.name] and item.name in _REQUIRED_LISTENS[role]:
            what = f"{item.name} is off, and a {role.replace('_', ' ')} needs one"
            faults.append(f"{_source(gathered, item.name)}: {what}")
    if without_effect:
        warnings.append(f"listen flags without effect in this version: {_listed(without_effect)}")
    if left_out:
        warnings.append(f"no TLS at these doors in this version, left out: {_listed(left_out)}")
    if role == "control_plane":
        listens = () if values["admin_token_file"] is not None else values["admin_listen"]
        exposed = [str(listen) for listen in listens if not listen.is_loopback]
        if exposed:
            warnings.append(
                f"the Admin API on {_listed(exposed)} is reachable from other machines and asks for no "
                "credentials: set admin_token_file, keep it behind a firewall, or set admin_listen to "
                "127.0.0.1:8001"
            )


def _source_warnings(gathered: Gathered) -> list[str]:
    warnings = []
    if gathered.kong_variables:
        warnings.append(
            f"taken from KONG_ variables, as no FASTGW_ variable is set: {_listed(gathered.kong_variables)}"
        )
    if gathered.meaningless:
        warnings.append(
            f"properties of Kong without meaning in this version: {_listed(gathered.meaningless)}"
        )
    formats = [
        name
        for name in ("admin_access_log", "proxy_access_log", "admin_error_log", "proxy_error_log")
        if name in gathered.values
        and (words := gathered.values[name].text.split()[1:])
        and not (name == "proxy_access_log" and words == ["json"])
    ]
    if formats:
        warnings.append(f"only the path counts, the words after it have no effect: {_listed(formats)}")
    return warnings + gathered.likely_typos


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
