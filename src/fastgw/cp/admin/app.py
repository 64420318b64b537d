"""The Admin API as one Starlette application: the resources of every entity, of the node and of the cluster.

Serve it with uvicorn's own `Server` header, access log and proxy headers switched off: the application has
its own, and the address of the peer is what the socket says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from fastgw.cp.admin.access_log import AdminAccessLog
from fastgw.cp.admin.clustering import ClusterView, clustering_resources
from fastgw.cp.admin.dispatch import Dispatcher
from fastgw.cp.admin.entities import entity_resources
from fastgw.cp.admin.guard import Guard, Requests
from fastgw.cp.admin.info import info_resources
from fastgw.cp.admin.routes import route_resources
from fastgw.cp.storage.contract import Storage
from fastgw.settings import Settings


def make_admin_app(
    *,
    storage: Storage,
    settings: Settings,
    cluster_view: ClusterView,
    node_id: str,
    started_at: float,
) -> Starlette:
    """Make the application over an open *storage*; `app.state.access_log` can be reopened.

    Args:
        node_id: the control plane's UUID, shown at `/`.
        started_at: Unix seconds.
    Raises:
        SettingsError: the access log cannot be opened.
    """
    requests = Requests()
    access_log = AdminAccessLog(settings.log_destination(settings.admin_access_log))
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
            *route_resources(cluster_view),
            *entity_resources(storage),
        ]
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            access_log.close()

    guard = Middleware(Guard, settings=settings, requests=requests, access_log=access_log)
    app = Starlette(routes=[Mount("/", app=dispatcher)], middleware=[guard], lifespan=lifespan)
    app.state.access_log = access_log
    return app
