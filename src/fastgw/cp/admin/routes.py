"""`/fastgw/routes/explain` and `/fastgw/routes/lint`: questions to the compiled routes of what is published.

They are answered by a thread: the image of a large configuration takes a while to open and to walk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from starlette.responses import Response

from fastgw.cp.admin.answers import json_response, message
from fastgw.cp.admin.clustering import ClusterView
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.routing.explain import BadQuestion, asked_of, explain_request
from fastgw.routing.layered import LayeredImage
from fastgw.routing.lint import lint


def route_resources(cluster_view: ClusterView) -> Iterator[Resource]:
    async def explain(call: Call) -> Response:
        document = call.body.json if call.body.json is not None else dict(call.body.pairs)
        try:
            asked = asked_of(document)
        except BadQuestion as error:
            raise message(400, str(error)) from None
        return json_response(await ask(lambda image: explain_request(image, asked)))

    async def find_faults(call: Call) -> Response:
        return json_response(await ask(lint))

    async def ask(question: Callable[[LayeredImage], Any]) -> Any:
        def answer() -> Any:
            image = cluster_view.open_image()
            return None if image is None else question(image)

        answered = await asyncio.to_thread(answer)
        if answered is None:
            raise message(503, "No configuration has been published yet")
        return answered

    yield Resource("/fastgw/routes/explain", {"POST": explain})
    yield Resource("/fastgw/routes/lint", {"GET": find_faults})
