"""The one table of entities: fields, rules and references, in Kong 3.9's order.

Validation, storage tables, Admin paths, forms, `/schemas`, OpenAPI and declarative files are all derived from
`ENTITIES`, which stands in dependency order (parents first). To add an entity, add its table. What may be
stored but is not proxied yet is a second table, `served.py`, so that this one can tell the whole truth about
Kong from the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastgw.model.entity import DEFAULT_FLAVOR, Entity, Row, Shorthand, flavored
from fastgw.model.tables.certificates import CA_CERTIFICATES, CERTIFICATES, SNIS
from fastgw.model.tables.common import PROTOCOLS
from fastgw.model.tables.consumers import ACLS, BASIC_AUTHS, CONSUMERS, HMAC_AUTHS, JWTS, KEY_AUTHS
from fastgw.model.tables.keys import KEY_SETS, KEYS, VAULTS
from fastgw.model.tables.plugins import PLUGINS
from fastgw.model.tables.proxying import ROUTES, SERVICES
from fastgw.model.tables.upstreams import TARGETS, UPSTREAMS

__all__ = [
    "DEFAULT_FLAVOR",
    "ENTITIES",
    "PROTOCOLS",
    "ROUTES",
    "SERVICES",
    "Entity",
    "Row",
    "Shorthand",
    "flavored",
]

#: Parents stand before their children.
ENTITIES: Final[Mapping[str, Entity]] = {
    entity.name: entity
    for entity in (
        CERTIFICATES,
        CA_CERTIFICATES,
        SNIS,
        SERVICES,
        ROUTES,
        CONSUMERS,
        UPSTREAMS,
        TARGETS,
        PLUGINS,
        VAULTS,
        KEY_SETS,
        KEYS,
        KEY_AUTHS,
        BASIC_AUTHS,
        JWTS,
        HMAC_AUTHS,
        ACLS,
    )
}
