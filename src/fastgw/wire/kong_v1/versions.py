"""Who may join whom, and whose plugins a configuration may name: Kong's checks, in Kong's words.

Contract. Checked once for a data plane when it connects is its version; checked again before every push are
the plugins that the configuration has rows of. The first refusal ends the connection, the second withholds
the push and leaves the link alone. A version is major and minor; all behind them is ignored.

Beyond Kong, a control plane of ours takes data planes of 2.8 beside those of 3.x: their plugins are counted
by the versions that 2.8 gave them.

Source: kong/clustering/compat/init.lua, 3.9.1; handlers of the plugins, 2.8.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, NamedTuple

KONG_VERSION: Final = "3.9.1"
"""What a control plane says to be, and a data plane by default."""


class SyncStatus(Enum):
    """Kong's words for a data plane; NORMAL says that it may be pushed to, not what it has applied."""

    UNKNOWN = "unknown"
    NORMAL = "normal"
    KONG_VERSION_INCOMPATIBLE = "kong_version_incompatible"
    PLUGIN_SET_INCOMPATIBLE = "plugin_set_incompatible"
    PLUGIN_VERSION_INCOMPATIBLE = "plugin_version_incompatible"
    FILTER_SET_INCOMPATIBLE = "filter_set_incompatible"


class KongVersion(NamedTuple):
    major: int
    minor: int


class Refusal(NamedTuple):
    status: SyncStatus
    reason: str


_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})\.\d")
_OWN: Final = KongVersion(3, 9)
_TAKEN_OF_2: Final = KongVersion(2, 8)

# pre-function and post-function tell no version.
_VERSIONS_OF_2_8: Final[Mapping[str, str]] = dict(
    item.split("=")
    for item in (
        "acl=3.0.1 acme=0.4.0 aws-lambda=3.6.3 azure-functions=1.0.1 basic-auth=2.2.0 bot-detection=2.0.0"
        " correlation-id=2.0.2 cors=2.1.1 datadog=3.1.1 file-log=2.1.0 grpc-gateway=0.2.0 grpc-web=0.3.0"
        " hmac-auth=2.4.0 http-log=2.1.1 ip-restriction=2.0.0 jwt=2.2.0 key-auth=2.4.0 ldap-auth=2.2.0"
        " loggly=2.1.0 oauth2=2.1.2 prometheus=1.6.0 proxy-cache=1.3.2 rate-limiting=2.4.0"
        " request-size-limiting=2.0.0 request-termination=2.1.0 request-transformer=1.3.3"
        " response-ratelimiting=2.1.0 response-transformer=2.0.2 session=2.4.5 statsd=2.0.1 syslog=2.2.0"
        " tcp-log=2.1.0 udp-log=2.1.0 zipkin=1.5.0"
    ).split()
)
_PLUGINS_OF_2_8: Final = frozenset(_VERSIONS_OF_2_8) | {"pre-function", "post-function"}


def parse_version(text: str | None) -> KongVersion | None:
    """Major and minor of `3.9.1`, `3.4.3.2-enterprise-edition` and the like; None when there are none."""
    found = _VERSION.match(text) if text is not None else None
    return KongVersion(int(found[1]), int(found[2])) if found is not None else None


def plugin_version(name: str, version: KongVersion, full_version: str) -> str | None:
    """The version that Kong *full_version* gives to its plugin *name*; None where it tells none."""
    return full_version if version.major >= 3 else _VERSIONS_OF_2_8.get(name)


def has_plugin(name: str, version: KongVersion) -> bool:
    """Whether Kong of this version may come with plugin *name*, one of those that we know."""
    return version.major >= 3 or name in _PLUGINS_OF_2_8


def check_version(data_plane: str) -> Refusal | None:
    """Kong's first check: may a data plane of this version join this control plane?"""
    found = parse_version(data_plane)
    accepted = "(2.8.y and 3.x.y are accepted)"
    reason = None
    if found is None:
        reason = f"data plane version is incompatible with control plane version {KONG_VERSION} {accepted}"
    elif found.major != _OWN.major and found != _TAKEN_OF_2:
        reason = (
            f"data plane version {data_plane} is incompatible with control plane version {KONG_VERSION} "
            f"{accepted}"
        )
    elif found > _OWN:
        reason = (
            f"data plane version {data_plane} is incompatible with older control plane version {KONG_VERSION}"
        )
    return Refusal(SyncStatus.KONG_VERSION_INCOMPATIBLE, reason) if reason is not None else None


def describe_difference(data_plane: str) -> str | None:
    """A line for a data plane of another minor version that may join; None for one of our own."""
    if parse_version(data_plane) == _OWN:
        return None
    return f"data plane minor version {data_plane} is different to control plane minor version {KONG_VERSION}"


def check_plugins(
    configured: Iterable[str], loaded: Mapping[str, str | None], data_plane: KongVersion
) -> Refusal | None:
    """Kong's second check: does a data plane have all plugins of a configuration, in versions that fit?

    Args:
        configured: names of plugins with rows that would be pushed.
        loaded: the data plane's plugins, with their versions as far as they are told.
    """
    for name in sorted(configured):
        ours = plugin_version(name, data_plane, KONG_VERSION)
        if name not in loaded:
            shown = f"{name} plugin {ours}" if ours is not None else f"{name} plugin"
            return Refusal(
                SyncStatus.PLUGIN_SET_INCOMPATIBLE, f"configured {shown} is missing from data plane"
            )
        own, theirs = parse_version(ours), parse_version(loaded[name])
        if own is None or theirs is None or (name == "opentelemetry" and theirs == (0, 1)):
            continue
        if own.major != theirs.major or own.minor < theirs.minor:
            return Refusal(
                SyncStatus.PLUGIN_VERSION_INCOMPATIBLE,
                f"configured data plane {name} plugin version {loaded[name]} is different to control plane"
                f" plugin version {ours}",
            )
    return None


def default_max_payload_bytes(data_plane: KongVersion) -> int:
    """The cluster_max_payload of a Kong data plane that was not told otherwise."""
    return 16 * 1024 * 1024 if data_plane >= (3, 4) else 4 * 1024 * 1024
