"""Calls to a registry, whose answers are not trusted: short, soon over, JSON, and from nobody else.

``requests`` bounds each read and not the whole: a registry that drips a byte a second would hold the
thread that is to take this instance off the list. Here all of an answer has :data:`READ_SECONDS`.
"""

import http.client
import io
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from time import monotonic
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as urllib3_errors
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from auxiliary_service.registration.registry import RegistryFailed

CONNECT_SECONDS = 0.5
READ_SECONDS = 1.0
# Of the whole answer, its head included.
ANSWER_BYTES = 64 * 1024

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close"}


class _AnswerReader(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._until = monotonic() + READ_SECONDS
        self._bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self._until - monotonic()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        self._sock.settimeout(left)
        count = self._raw.readinto(buffer)
        self._bytes += count or 0
        if self._bytes > ANSWER_BYTES:
            raise OSError(f"the answer is longer than {ANSWER_BYTES} bytes")
        return count

    def close(self) -> None:
        super().close()
        self._raw.close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_AnswerReader(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _Answer


class _TLSConnection(HTTPSConnection):
    response_class = _Answer


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry answered."""

    status: int
    body: bytes

    def document(self) -> dict[str, Any]:
        """Give the body, which must be a JSON object. Raises :class:`RegistryFailed`."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise RegistryFailed("answers something else than a JSON object")
        return found

    def refusal(self) -> RegistryFailed:
        """Make the error of a status that is not the one that was asked for."""
        return RegistryFailed(f"answers with status {self.status}")


class Session:
    """Asks one registry, each time on a new connection: a kept one may have ended since.

    Nothing of the environment is believed (proxies, ``~/.netrc``), no cookie is kept, no redirect
    followed, nothing sent twice. ``headers`` go with every request and into no error.
    """

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.clear()
        self._session.headers.update({**_HEADERS, **(headers or {})})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(max_retries=0))

    def call(self, method: str, url: str, document: object = None) -> Answer:
        """Send ``document`` as JSON, if there is one, and give the answer. Raises :class:`RegistryFailed`."""
        try:
            with self._session.request(
                method,
                url,
                json=document,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                stream=True,
            ) as response:
                # As it came: unpacked, a short answer could be a long one.
                return Answer(response.status_code, response.raw.read(decode_content=False))
        except (requests.RequestException, urllib3_errors.HTTPError, OSError, ValueError) as error:
            raise RegistryFailed(f"does not answer ({type(_innermost(error)).__name__})") from None


def _innermost(error: BaseException) -> BaseException:
    """Find what was met first; requests and urllib3 raise errors of their own because of it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error
