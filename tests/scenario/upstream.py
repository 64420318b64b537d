"""The upstream of all scenarios: httpbin in a process of its own, `python -m tests.scenario.upstream`.

It speaks HTTP/1.1 with keep-alive, says its port on standard output, and adds to every answer that it holds
whole the SHA-256 of the body as it goes out, so that a test can tell whether the bytes arrived unchanged.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import httpbin
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

BODY_DIGEST: Final = "X-Body-Sha256"
_SLOW: Final = frozenset({"/drip"})
"""Answers of known length that must nevertheless go out piece by piece."""


def say(text: str) -> str:
    """The path at httpbin that answers *text* and nothing else."""
    return f"/base64/{base64.b64encode(text.encode()).decode()}"


class Handler(WSGIRequestHandler):
    """Keeps connections open, and does not wait for the acknowledgement of a head before the body."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def make_environ(self) -> WSGIEnvironment:
        """Let httpbin take bodies in chunks, which it does of servers that it knows to end them."""
        return {**super().make_environ(), "SERVER_SOFTWARE": "gunicorn/22.0.0"}

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing about requests: the tests ask the gateway, not this log."""


class WithDigest:
    """The application with `BODY_DIGEST` on answers of known length; streams pass through."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def keep(status: str, headers: list[tuple[str, str]], _info: object = None) -> object:
            started.append((status, headers))
            return lambda data: None

        answer = self._application(environ, keep)  # type: ignore[arg-type]
        (status, headers) = started[-1]
        is_whole = any(name.lower() == "content-length" for name, _ in headers)
        if is_whole and environ["PATH_INFO"] not in _SLOW:
            body = b"".join(answer)
            if hasattr(answer, "close"):
                answer.close()
            headers.append((BODY_DIGEST, hashlib.sha256(body).hexdigest()))
            answer = [body]
        start_response(status, headers)
        return answer


def main() -> None:
    """Serve until the process is ended."""
    server = make_server(
        "127.0.0.1", 0, WithDigest(httpbin.app.wsgi_app), threaded=True, request_handler=Handler
    )
    sys.stdout.write(f"listens on {server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
