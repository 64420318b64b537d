"""The Admin API: Kong's paths, bodies and errors, derived from the entity table.

A request passes `guard` (Host, Origin, common headers, access log), then `dispatch` (path, content type,
method, body), then an endpoint of `entities`, `info` or `clustering`, whose answer or error is worded by
`answers`.
"""

from fastgw.cp.admin.app import make_admin_app
from fastgw.cp.admin.clustering import ClusterView

__all__ = ["ClusterView", "make_admin_app"]
