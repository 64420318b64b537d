"""Plugins: which behaviour holds for which service, route and consumer, with which configuration.

The name selects the schema of `config`, from the registry of plugin schemas.
Source: kong/db/schema/entities/plugins.lua, release 3.9.1.
"""

from __future__ import annotations

from typing import Final

from fastgw.model.entity import Entity
from fastgw.model.fields import Field, by_name
from fastgw.model.plugin_schemas import PLUGIN_SCHEMAS
from fastgw.model.plugin_schemas.schema import protocols_field
from fastgw.model.tables.common import CREATED_AT, ID, PROTOCOLS, TAGS, UPDATED_AT

PLUGINS: Final = Entity(
    "plugins",
    by_name(
        ID,
        Field("name", "string", required=True),
        Field("instance_name", "string", unique=True, format="utf8_name"),
        CREATED_AT,
        UPDATED_AT,
        Field("route", "foreign", reference="routes", on_delete="cascade", default=None),
        Field("service", "foreign", reference="services", on_delete="cascade", default=None),
        Field("consumer", "foreign", reference="consumers", on_delete="cascade", default=None),
        Field("config", "record", required=True),
        protocols_field(PROTOCOLS),
        Field("enabled", "boolean", required=True, default=True),
        TAGS,
    ),
    endpoint_key="instance_name",
    composite_key=("name", "route", "service", "consumer"),
    cache_key=("name", "route", "service", "consumer"),
    admin_path="plugins",
    nested_name="plugins",
    variant_key="name",
    variants={name: schema.variant for name, schema in PLUGIN_SCHEMAS.items()},
    unknown_variant="plugin '{value}' not enabled; add it to the 'plugins' configuration property",
)
