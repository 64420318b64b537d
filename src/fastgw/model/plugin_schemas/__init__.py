"""The schemas of the bundled plugins: what may stand in a plugin's `config`, by the plugin's name.

A schema is here before its plugin can do anything: configurations are stored and answered as Kong does, and a
data plane refuses requests on routes whose plugins it does not have.
Source: kong/plugins/*/schema.lua, release 3.9.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastgw.model.plugin_schemas import auth, logs, others, traffic, transform
from fastgw.model.plugin_schemas.schema import PluginSchema

#: By name.
PLUGIN_SCHEMAS: Final[Mapping[str, PluginSchema]] = {
    schema.name: schema
    for group in (auth.SCHEMAS, traffic.SCHEMAS, transform.SCHEMAS, logs.SCHEMAS, others.SCHEMAS)
    for schema in group
}
