"""Asking a control plane's Admin API in the name of a command: which door, whose certificate, which token.

All of it comes from the control plane's own settings: of its doors the first plain one, else the first TLS
one, which is known by its own certificate; a token from `admin_token_file`, where that is set, the first one
that suffices. For a control plane elsewhere, `--set admin_listen=HOST:PORT` and a file with one's own token
do the same.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final

from fastgw.cli.ask import Answer, ask, reachable
from fastgw.errors import CertificateError, FastgwError
from fastgw.settings import Settings

_TIMEOUT_S: Final = 60.0


class NotAnswered(FastgwError):
    code = "not_answered"


class AdminApi:
    """The Admin API of a control plane with these settings.

    Args:
        timeout_s: for each answer.
        otherwise: what else the user could do, for the message that nothing answers.
    Raises:
        SettingsError: the file of tokens cannot be read, or is none.
        NotAnswered: the certificate of its only door cannot be read.
    """

    def __init__(self, settings: Settings, *, timeout_s: float = _TIMEOUT_S, otherwise: str = "") -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._otherwise = otherwise
        self._listen = min(settings.admin_listen, key=lambda listen: listen.ssl)
        self._tls = _context_of(settings) if self._listen.ssl else None
        self.url = f"http{'s' if self._listen.ssl else ''}://{reachable(self._listen)}"

    def ask(
        self,
        path: str,
        document: object = None,
        *,
        method: str | None = None,
        content: bytes | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a GET, or a POST of *document* as JSON or of *content*; the answer may be of any status.

        Raises:
            NotAnswered: nothing answers.
        """
        method = method or ("GET" if document is None and content is None else "POST")
        try:
            return ask(
                self._listen,
                path,
                method=method,
                document=document,
                content=content,
                content_type=content_type,
                headers={**self._headers(may_write=method != "GET"), **(headers or {})},
                timeout_s=self._timeout_s,
                tls=self._tls,
            )
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            advice = f"{self._otherwise}name it with --set admin_listen=HOST:PORT"
            raise NotAnswered(f"no control plane answers at {self.url}{path}: {reason}; {advice}") from None

    def get(
        self,
        path: str,
        document: object = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The same; the body of an answer that is well.

        Raises:
            NotAnswered: nothing answers, or not well.
        """
        answer = self.ask(path, document, method=method, headers=headers)
        if not 200 <= answer.status < 300:
            raise NotAnswered(f"{self.url}{path} answered {answer.status} {message_of(answer)}".rstrip())
        return answer.body

    def _headers(self, *, may_write: bool) -> dict[str, str]:
        if self._settings.admin_token_file is None:
            return {}
        from fastgw.cp.admin.callers import first_token  # noqa: PLC0415 (only with tokens)

        token = first_token(self._settings.admin_token_file, may_write=may_write)
        return {} if token is None else {"Authorization": f"Bearer {token}"}


def message_of(answer: Answer) -> str:
    """What an answer of the Admin API says to people."""
    return str(answer.body.get("message", "")) if isinstance(answer.body, dict) else ""


def _context_of(settings: Settings) -> ssl.SSLContext:
    """Make a context that trusts the Admin API's own certificates, and nobody else."""
    from fastgw.tls.proxy_pairs import admin_certificates  # noqa: PLC0415 (only with TLS)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate itself is known, whoever issued it and whatever name it bears.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        for pem in admin_certificates(settings):
            own, end, _ = pem.decode("ascii").partition("-----END CERTIFICATE-----")
            context.load_verify_locations(cadata=own + end)
    except (CertificateError, ssl.SSLError, UnicodeDecodeError) as error:
        raise NotAnswered(f"the Admin API's certificate cannot be read: {error}") from None
    return context
