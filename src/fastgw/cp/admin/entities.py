"""The paths of entities, all derived from the entity table.

For an entity E with a foreign field F to a parent P there are

    /E                    list, create
    /E/{e}                read, upsert, update, delete
    /E/{e}/F              the parent: read, upsert, update
    /P/{p}/E, /P/{p}/E/{e}  the same as the first two, within one parent

where `{e}` is an id or a value of the endpoint key. Source: kong/api/endpoints.lua, release 3.9.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fastgw.cp.admin.collections import Collection, ParentLink
from fastgw.cp.admin.dispatch import Resource
from fastgw.cp.admin.hooks import Hooks
from fastgw.cp.storage.contract import Storage
from fastgw.model.entities import ENTITIES

#: Kong answers 404 there.
_SWITCHED_OFF = frozenset({"/snis/{snis}/certificate"})


def entity_resources(storage: Storage, hooks: Mapping[str, Hooks]) -> Iterator[Resource]:
    """All resources of all entities."""
    for entity in ENTITIES.values():
        own = hooks[entity.name]
        if entity.is_top_level:
            yield from _collection_resources(Collection(storage, own), f"/{entity.admin_path}")
        for name, field in entity.foreign_fields.items():
            parent = hooks.get(field.reference or "")
            if parent is None:
                continue
            link = ParentLink(storage, own, name, parent)
            pattern = f"/{entity.admin_path}/{{{entity.name}}}/{name}"
            if entity.is_top_level and pattern not in _SWITCHED_OFF:
                yield Resource(
                    pattern,
                    {"GET": link.read, "PUT": link.upsert, "PATCH": link.update, "DELETE": link.delete},
                )
            nested = Collection(storage, own, parent_field=name, parent=parent)
            base = f"/{parent.entity.admin_path}/{{{parent.entity.name}}}/{entity.nested_name}"
            yield from _collection_resources(nested, base)


def _collection_resources(rows: Collection, path: str) -> Iterator[Resource]:
    yield Resource(path, {"GET": rows.list, "POST": rows.create})
    yield Resource(
        f"{path}/{{{rows.entity.name}}}",
        {"GET": rows.read, "PUT": rows.upsert, "PATCH": rows.update, "DELETE": rows.delete},
    )
