"""The Admin API as one Starlette application: the resources of every entity, of the node and of the cluster.

Serve it with uvicorn's own `Server` header, access log and proxy headers switched off: the application has
its own, and the address of the peer is what the socket says.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.access_log import AdminAccessLog
from fastgw.cp.admin.callers import Tokens
from fastgw.cp.admin.cluster import WaitApplied, cluster_resources
from fastgw.cp.admin.clustering import ClusterView, clustering_resources
from fastgw.cp.admin.config import config_resources
from fastgw.cp.admin.debug import debug_resources
from fastgw.cp.admin.dispatch import Dispatcher, Resource
from fastgw.cp.admin.entities import entity_resources
from fastgw.cp.admin.guard import Guard, Requests
from fastgw.cp.admin.history import history_resources
from fastgw.cp.admin.hooks import make_hooks
from fastgw.cp.admin.info import info_resources
from fastgw.cp.admin.last_known import LastKnown
from fastgw.cp.admin.openapi import description_resources
from fastgw.cp.admin.plan import plan_resources
from fastgw.cp.admin.rollout import rollout_resources
from fastgw.cp.admin.routes import route_resources
from fastgw.cp.admin.schemas import schema_resources
from fastgw.cp.admin.special import special_resources
from fastgw.cp.admin.tags import tag_resources
from fastgw.cp.admin.transaction import transaction_resources
from fastgw.cp.rollout import records
from fastgw.cp.rollout.conductor import Conductor
from fastgw.cp.storage.contract import Storage
from fastgw.errors import StorageError
from fastgw.obs.logs import get_logger
from fastgw.settings import Settings

log = get_logger(__name__)

_EXPIRY_PERIOD_S: Final = 10.0
_TRIM_PERIODS: Final = 60


def make_admin_app(
    *,
    storage: Storage,
    settings: Settings,
    cluster_view: ClusterView,
    rollouts: Conductor,
    node_id: str,
    started_at: float,
) -> Starlette:
    """Make the application over an open *storage*; `app.state.access_log` can be reopened.

    Args:
        node_id: the control plane's UUID, shown at `/`.
        started_at: Unix seconds.
    Raises:
        SettingsError: the file of tokens is wrong, or the access log cannot be opened.
    """
    requests = Requests()
    tokens = None if settings.admin_token_file is None else Tokens(settings.admin_token_file)
    hooks = make_hooks(settings)
    access_log = AdminAccessLog(settings.log_destination(settings.admin_access_log))
    entities = [*entity_resources(storage, hooks), *special_resources(storage, hooks, node_id)]
    last_known = LastKnown(storage, cluster_view)
    resources: dict[str, Resource] = {}
    dispatcher = Dispatcher(
        [
            *info_resources(
                storage=storage,
                settings=settings,
                requests=requests,
                cluster_view=cluster_view,
                node_id=node_id,
                started_at=started_at,
            ),
            *clustering_resources(cluster_view),
            *cluster_resources(cluster_view, rollouts),
            *debug_resources(),
            *route_resources(cluster_view),
            *entities,
            *schema_resources(hooks),
            *tag_resources(storage),
            *config_resources(storage, hooks),
            *plan_resources(storage, settings, hooks, cluster_view),
            *rollout_resources(storage, settings, hooks, cluster_view, rollouts),
            *transaction_resources(storage, entities),
            *history_resources(storage, hooks, settings.router_flavor),
            *description_resources(resources),
        ],
        last_known=last_known,
    )
    resources.update(dispatcher.resources)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        purge = asyncio.create_task(_tidy_always(storage), name="expired rows")
        try:
            yield
        finally:
            purge.cancel()
            await asyncio.gather(purge, return_exceptions=True)
            await last_known.close()
            access_log.close()

    guard = Middleware(Guard, settings=settings, requests=requests, access_log=access_log, tokens=tokens)
    app = Starlette(middleware=[guard], lifespan=lifespan, exception_handlers={Exception: _unexpected})
    # Not a route: a route's pattern would turn some paths away (those with a line break) by itself.
    app.router.default = WaitApplied(dispatcher, storage, cluster_view)
    app.state.access_log = access_log
    return app


async def _unexpected(_request: Request, _error: Exception) -> Response:
    """The answer to a fault around the dispatcher, which answers its own; the server logs what it was."""
    return answers.error_response(answers.unexpected())


async def tidy(storage: Storage, *, trims: bool = False) -> None:
    """Delete the rows whose time is over, data planes hear of it as of any change; *trims*: the history, too.

    While a rollout runs they stay, and the Admin API hides them: each deletion would be a version to try.

    Raises:
        StorageError: the database is away.
    """
    async with storage.write("expiry") as writer:
        if await records.fetch_running(writer.records) is None:
            await writer.delete_expired()
        if trims:
            await writer.trim_history()


async def _tidy_always(storage: Storage) -> None:
    """Tidy every few seconds, and trim the history every few minutes."""
    for period in itertools.count(1):
        await asyncio.sleep(_EXPIRY_PERIOD_S)
        try:
            await tidy(storage, trims=period % _TRIM_PERIODS == 1)
        except StorageError as error:
            log.warning("expired rows were not deleted: %s", error)
