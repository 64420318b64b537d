"""What single entities do beside the common course of reading and writing.

Each kind of rows has one `Hooks`; the common course asks it at the points that its methods name. All of them
run in the request's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastgw.cp.admin import answers
from fastgw.cp.admin.rows import RowKey, find_row, row_key
from fastgw.cp.storage.contract import Reader, Writer
from fastgw.errors import ValidationError
from fastgw.model.entities import ENTITIES, Entity, Row, flavored
from fastgw.model.formats import is_uuid, normal_target
from fastgw.model.plugin_schemas import PLUGIN_SCHEMAS
from fastgw.model.served import SERVED_PLUGINS
from fastgw.model.validate import make_row
from fastgw.settings import Settings

Method = Literal["POST", "PUT", "PATCH"]


class Hooks:
    """Does nothing: the course of most entities."""

    def __init__(self, entity: Entity) -> None:
        self.entity = entity

    def key(self, segment: str, *, is_nested: bool = False) -> RowKey:
        return row_key(self.entity, segment, is_nested=is_nested)

    async def find(self, reader: Reader, key: RowKey, parent: Mapping[str, Any] | None = None) -> Row | None:
        return await find_row(reader, self.entity, key, parent)

    def missing(self, key: RowKey) -> answers.Answer:
        """What to answer to reading a row that is not there."""
        return answers.not_found()

    def check_data(self, data: Mapping[str, Any]) -> None:
        """Refuse what was sent before the schema is asked."""

    async def before_write(
        self, writer: Writer, row: Row, data: Mapping[str, Any], method: Method, key: RowKey | None
    ) -> None:
        """Refuse what only other rows can show to be wrong."""

    async def after_write(
        self, writer: Writer, row: Row, data: Mapping[str, Any], method: Method, key: RowKey | None
    ) -> None:
        """Write what goes with the row."""

    async def before_delete(self, writer: Writer, row: Row) -> None:
        """Refuse, or delete what goes first."""

    async def whole(self, reader: Reader, rows: list[Row]) -> list[Row]:
        """Add to stored rows what the Admin API shows with them."""
        return rows


class CertificateHooks(Hooks):
    """Certificates are read and written with the names of their SNIs, and may be named by one."""

    def key(self, segment: str, *, is_nested: bool = False) -> RowKey:
        return RowKey("id", segment.lower()) if is_uuid(segment) else RowKey("sni", segment)

    async def find(self, reader: Reader, key: RowKey, parent: Mapping[str, Any] | None = None) -> Row | None:
        if key.field == "id":
            return await find_row(reader, self.entity, key)
        sni = await reader.get_by("snis", "name", key.value)
        return None if sni is None else await reader.get("certificates", sni["certificate"]["id"])

    def missing(self, key: RowKey) -> answers.Answer:
        return (
            answers.message(404, "SNI not found")
            if key.field == "sni"
            else answers.row_not_found({"id": key.value})
        )

    async def before_write(
        self, writer: Writer, row: Row, data: Mapping[str, Any], method: Method, key: RowKey | None
    ) -> None:
        names = _wanted_snis(data, key)
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ValidationError({"snis": f"{name} is duplicated"})
            sni = await writer.get_by("snis", "name", name)
            if sni is not None and sni["certificate"]["id"] != row["id"]:
                owner = sni["certificate"]["id"]
                fault = f"{name} already associated with existing certificate '{owner}'"
                raise ValidationError({"snis": fault})

    async def after_write(
        self, writer: Writer, row: Row, data: Mapping[str, Any], method: Method, key: RowKey | None
    ) -> None:
        if method != "PUT" and "snis" not in data:
            return
        wanted = _wanted_snis(data, key)
        held = await _snis_of(writer, row["id"])
        for sni in held:
            if sni["name"] not in wanted:
                await writer.delete("snis", sni["id"])
        names = {sni["name"] for sni in held}
        for name in wanted:
            if name not in names:
                given = {"name": name, "certificate": {"id": row["id"]}}
                await writer.insert("snis", make_row(ENTITIES["snis"], given, now_s=writer.at))

    async def whole(self, reader: Reader, rows: list[Row]) -> list[Row]:
        return [
            {**row, "snis": sorted(sni["name"] for sni in await _snis_of(reader, row["id"]))} for row in rows
        ]


def _wanted_snis(data: Mapping[str, Any], key: RowKey | None) -> list[str]:
    given = data.get("snis")
    names = [name for name in given if isinstance(name, str)] if isinstance(given, list) else []
    if key is not None and key.field == "sni" and "snis" in data and key.value not in names:
        names.append(key.value)
    return names


async def _snis_of(reader: Reader, certificate_id: str) -> list[Row]:
    rows: list[Row] = []
    after: str | None = None
    while True:
        page, after = await reader.page(
            "snis", size=1000, after=after, parent=("certificate", certificate_id)
        )
        rows += page
        if after is None:
            return rows


class TargetHooks(Hooks):
    """A target's address is judged before the rest, with a text of its own."""

    def check_data(self, data: Mapping[str, Any]) -> None:
        target = data.get("target")
        if isinstance(target, str) and target and normal_target(target) is None:
            raise ValidationError({"target": "Invalid target; not a valid hostname or ip address"})

    def key(self, segment: str, *, is_nested: bool = False) -> RowKey:
        return RowKey("id", segment.lower()) if is_uuid(segment) else RowKey("target", segment)


class PluginHooks(Hooks):
    """A plugin has to be known to this node, and to share a protocol with what it is for."""

    def __init__(self, entity: Entity, settings: Settings) -> None:
        super().__init__(entity)
        self._loaded = loaded_plugins(settings)
        self._refuses_missing = settings.missing_plugins == "refuse"

    def check_data(self, data: Mapping[str, Any]) -> None:
        name = data.get("name")
        if not isinstance(name, str) or name not in self.entity.variants:
            return
        if name not in self._loaded:
            raise ValidationError({"name": self.entity.unknown_variant.format(value=name)})
        if self._refuses_missing and name not in SERVED_PLUGINS:
            fault = f"no data plane of this version has plugin '{name}', and missing_plugins is refuse"
            raise ValidationError({"name": fault})

    async def before_write(
        self, writer: Writer, row: Row, data: Mapping[str, Any], method: Method, key: RowKey | None
    ) -> None:
        if data.get("protocols") is None:
            return
        protocols = set(row["protocols"])
        if data.get("route") is not None and row["route"] is not None:
            route = await writer.get("routes", row["route"]["id"])
            if route is not None and protocols.isdisjoint(route["protocols"]):
                raise ValidationError({"protocols": "must match the associated route's protocols"})
        elif data.get("service") is not None and row["service"] is not None:
            parent = ("service", row["service"]["id"])
            routes, _ = await writer.page("routes", size=1000, parent=parent)
            if routes and all(protocols.isdisjoint(route["protocols"]) for route in routes):
                fault = "must match the protocols of at least one route pointing to this Plugin's service"
                raise ValidationError({"protocols": fault})


class ServiceHooks(Hooks):
    """Authorities are named by id in a list, which no foreign key watches."""

    async def before_write(
        self, writer: Writer, row: Row, data: Mapping[str, Any], method: Method, key: RowKey | None
    ) -> None:
        for id_ in row["ca_certificates"] or () if "ca_certificates" in data else ():
            if await writer.get("ca_certificates", id_) is None:
                raise ValidationError({"ca_certificates": f"there is no CA certificate {id_}"})


class AuthorityHooks(Hooks):
    """A certificate of an authority stays while a service names it."""

    async def before_delete(self, writer: Writer, row: Row) -> None:
        after: str | None = None
        while True:
            services, after = await writer.page("services", size=1000, after=after)
            for service in services:
                if row["id"] in (service["ca_certificates"] or ()):
                    raise answers.still_referenced(row["id"], "services", service["id"])
            if after is None:
                return


def loaded_plugins(settings: Settings) -> frozenset[str]:
    """The plugins that may be configured on this node."""
    if "bundled" in settings.plugins:
        return frozenset(PLUGIN_SCHEMAS)
    return frozenset(PLUGIN_SCHEMAS) & settings.plugins


def make_hooks(settings: Settings) -> dict[str, Hooks]:
    """The hooks of every entity, by its name."""
    special: dict[str, Hooks] = {
        "certificates": CertificateHooks(ENTITIES["certificates"]),
        "targets": TargetHooks(ENTITIES["targets"]),
        "routes": Hooks(flavored(ENTITIES["routes"], settings.router_flavor)),
        "plugins": PluginHooks(ENTITIES["plugins"], settings),
        "services": ServiceHooks(ENTITIES["services"]),
        "ca_certificates": AuthorityHooks(ENTITIES["ca_certificates"]),
    }
    return {name: special.get(name) or Hooks(entity) for name, entity in ENTITIES.items()}
