"""A pooled ``requests`` session whose calls keep to a deadline."""

from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as urllib3_errors
from urllib3.connection import port_by_scheme

from main_api.upstream.connecting import Resolver
from main_api.upstream.connections import Pool, Sending, TLSPool, current

# Beyond it the connections to whoever was not asked for longest are closed; requests' own ten is too few.
INSTANCES_MOST = 1024

_LATE = (TimeoutError, requests.Timeout, urllib3_errors.TimeoutError)


def innermost(error: BaseException) -> BaseException:
    """Find what urllib3 met first: requests and urllib3 wrap it as an argument or as ``reason``."""
    while True:
        held = (getattr(error, "reason", None), *error.args)
        inner = next((each for each in held if isinstance(each, Exception)), None)
        if inner is None:
            return error
        error = inner


def met(error: BaseException) -> BaseException:
    """Find what the system said: urllib3 keeps that behind the error of a connection that was not made."""
    inner = innermost(error)
    return inner.__cause__ or inner if isinstance(inner, urllib3_errors.NewConnectionError) else inner


class NeverConnected(Exception):
    """Connecting failed, TLS included, so nothing of the request was sent; its argument says why."""


class KeptConnectionEnded(Exception):
    """A connection kept from an earlier call ended without a byte of an answer; so may the request have."""


# All that :meth:`Session.send`, and reading what it gives, may raise.
FAILURES = (
    NeverConnected,
    KeptConnectionEnded,
    requests.RequestException,
    urllib3_errors.HTTPError,
    OSError,
)


class _DeadlineAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": TLSPool}

    def forget(self, url: SplitResult) -> None:
        """Drop the pools of one address, whatever TLS settings they were made for."""
        pools = self.poolmanager.pools
        host, port = url.hostname or "", url.port or port_by_scheme[url.scheme]
        for key in pools.keys():  # noqa: SIM118 - it cannot be iterated over
            if (key.key_host.strip("[]"), key.key_port, key.key_scheme) == (host, port, url.scheme):
                # Taking it out closes it.
                with suppress(KeyError):
                    del pools[key]


class Session:
    """Connections to the instances of every service, shared by the threads of a process.

    Make it after the fork. Nothing of the environment is believed (proxies, ``~/.netrc``), no cookie
    is kept, no redirect followed, nothing sent twice: repeating is a policy's business.
    """

    def __init__(self, *, pool_size: int, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._resolver = Resolver()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.clear()
        for scheme in ("http://", "https://"):
            self._session.mount(
                scheme,
                _DeadlineAdapter(
                    pool_connections=INSTANCES_MOST, pool_maxsize=pool_size, pool_block=False, max_retries=0
                ),
            )

    def prepare(self, method: str, url: str) -> requests.PreparedRequest:
        """Do once per method and instance what costs half of a call; copy what it gives for each."""
        return self._session.prepare_request(requests.Request(method, url))

    def mount(self, prefix: str, adapter: HTTPAdapter) -> None:
        """Send what begins with ``prefix`` through another adapter (a service joined in-process, say)."""
        self._session.mount(prefix, adapter)

    def forget(self, url: str) -> None:
        """Close the idle connections to ``url``; one that is in use is closed at the end of its call."""
        adapter = self._session.get_adapter(url)
        if isinstance(adapter, _DeadlineAdapter):
            adapter.forget(urlsplit(url))

    def send(
        self, prepared: requests.PreparedRequest, deadline: float, *, fresh: bool = False
    ) -> requests.Response:
        """Send, and give the answer with its body unread; reading it keeps to ``deadline`` too.

        ``deadline`` is a moment of the monotonic clock, still to come; ``fresh`` forbids a kept
        connection. Raises :class:`NeverConnected`, :class:`KeptConnectionEnded`, or requests' exceptions.
        """
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        sent = Sending(self._resolver, deadline, fresh)
        token = current.set(sent)
        try:
            return self._session.get_adapter(str(prepared.url)).send(
                prepared, stream=True, timeout=(min(self._connect_timeout, left), left)
            )
        except (requests.RequestException, urllib3_errors.HTTPError, OSError) as error:
            if sent.connecting:
                raise NeverConnected(error) from error
            if sent.kept and not sent.heard and not isinstance(innermost(error), _LATE):
                raise KeptConnectionEnded(error) from error
            raise
        finally:
            current.reset(token)
