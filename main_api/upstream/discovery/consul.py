"""The instances that Consul lists, waited for by blocking queries.

What is asked, and how it is waited for, is as Consul's documentation has it:
https://developer.hashicorp.com/consul/api-docs/health#list-service-instances-for-service and
https://developer.hashicorp.com/consul/api-docs/features/blocking
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from math import inf
from time import monotonic
from typing import Never, TypeVar
from urllib.parse import quote, urlencode

import requests
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as urllib3_errors
from urllib3.util import SKIP_HEADER

from main_api.upstream.discovery.ending import EndableAdapter
from main_api.upstream.discovery.source import WEIGHT_MOST, Address, Listing, SourceFailed, shortest
from main_api.upstream.session import FAILURES, NeverConnected, Session, met

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds that Consul is asked to wait for a change. It adds up to a sixteenth, so that its callers do not all
# come back at once; the last two are ours, for the way.
WAIT = 10
_WAIT_MOST = WAIT + WAIT / 16 + 2.0
# Seconds for an answer that waits for nothing.
_ANSWER_MOST = 5.0
_CONNECT_MOST = 1.0
# Whatever makes Consul answer at once each time (changes without end, an index that is none) must not make us
# ask without end. The documentation wants a bucket that lets two through without a wait; it gets a token each
# half second, so that a change is never held back longer.
_BURST = 2
_BETWEEN = 0.5
# Over three kilobytes for each instance of the longest list that is taken.
BODY_MOST = 1024 * 1024
_TOLD_MOST = 5
_TEXT_MOST = 60

_INDEX = re.compile(r"[0-9]{1,20}\Z")
_STATUSES = {
    403: "permission denied",
    404: "not found",
    429: "rate limited",
    500: "internal error",
    503: "unavailable",
}
_LATE = (TimeoutError, requests.Timeout, urllib3_errors.ReadTimeoutError)


class ConsulSource:
    """One service as a Consul agent lists it: its passing instances, as soon as they change.

    ``name`` is the address that it was configured by; ``base_url`` is the agent's. ``token`` is sent to it in
    ``X-Consul-Token`` and is in no text. Only what ``datacenter``, ``tag`` and ``namespace`` name is listed;
    without them it is what the agent and the token default to. Nothing is connected before the first read.
    """

    def __init__(
        self,
        name: str,
        service: str,
        base_url: str,
        token: str | None,
        *,
        datacenter: str | None = None,
        tag: str | None = None,
        namespace: str | None = None,
        adapter: HTTPAdapter | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        given = {"passing": "1", "dc": datacenter, "tag": tag, "ns": namespace}
        query = urlencode({key: value for key, value in given.items() if value})
        self._url = f"{base_url.rstrip('/')}/v1/health/service/{quote(service, safe='')}?{query}"
        self._headers = {"Accept": "application/json", "User-Agent": SKIP_HEADER}
        if token:
            self._headers["X-Consul-Token"] = token
        self._adapter = adapter or EndableAdapter()
        self._session = Session(pool_size=1, connect_timeout=_CONNECT_MOST)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._adapter)
        self._clock = clock
        self._closed = False
        self._index = 0
        # When the bucket is full again.
        self._full_at = -inf
        self._left_out: frozenset[str] = frozenset()

    def read(self) -> Listing:
        """Give the passing instances: at once the first time and after a failure, else when Consul says so.

        Consul says so after a change, and after :data:`WAIT` seconds without one.
        """
        if not self._closed:
            try:
                return self._list()
            except SourceFailed:
                if not self._closed:
                    raise
        # Not what broke under it: a close is no fault of Consul's.
        raise SourceFailed("closed")

    def close(self) -> None:
        """End the read that waits, and let go of the connection."""
        self._closed = True
        self._adapter.close()

    def _list(self) -> Listing:
        now = self._clock()
        self._full_at = min(max(self._full_at, now) + _BETWEEN, now + _BURST * _BETWEEN)
        # Whatever fails from here on leaves it so: the next one begins anew.
        index, self._index = self._index, 0
        headers, body = self._ask(index)
        addresses, left_out = listed(body)
        # Of a service that a token may not read, Consul gives an empty list and not an error.
        if headers.get("X-Consul-Results-Filtered-By-ACLs") == "true" and not addresses:
            raise SourceFailed("the token may not read it")
        self._index = following(index, headers.get("X-Consul-Index", "0"))
        self._tell(frozenset(left_out))
        return Listing(addresses, max(0.0, self._full_at - self._clock() - (_BURST - 1) * _BETWEEN))

    def _ask(self, index: int) -> tuple[Mapping[str, str], bytes]:
        url, seconds = self._url, _ANSWER_MOST
        if index:
            url, seconds = f"{url}&index={index}&wait={WAIT}s", _WAIT_MOST
        request = self._session.prepare("GET", url)
        request.headers.update(self._headers)
        try:
            # Moments of a session are of the real clock, whichever the reads are counted by.
            response = self._session.send(request, monotonic() + seconds)
            try:
                return response.headers, _read(response)
            finally:
                # Read to its end, the connection is kept all the same.
                response.close()
        except (*FAILURES, ValueError) as error:
            # From None: a header that cannot be sent is in the text of its error, and the token is a header.
            raise SourceFailed(_reason(error)) from None

    def _tell(self, left_out: frozenset[str]) -> None:
        if left_out - self._left_out:
            more = len(left_out) - _TOLD_MOST
            told = "; ".join(sorted(left_out)[:_TOLD_MOST])
            log.warning("%s: left out: %s%s", self.name, told, f"; and {more} more" if more > 0 else "")
        self._left_out = left_out


def following(before: int, given: str) -> int:
    """Give the index to wait by after an answer to ``before`` that had ``given``; 0 is not to wait.

    One that has gone back begins anew: changes behind it would be missed. None is ever taken as 0, with
    which Consul would not wait; 1 is always safe. Raises :class:`SourceFailed` for what is no number.
    """
    if not _INDEX.match(given):
        raise SourceFailed("X-Consul-Index is no number")
    index = max(1, int(given))
    return index if index >= before else 0


def listed(body: bytes) -> tuple[tuple[Address, ...], tuple[str, ...]]:
    """Read an answer: the addresses of its instances, and in words those that are of no use.

    Raises :class:`SourceFailed` for what Consul would not write; nothing else, whatever it is.
    """
    try:
        entries = json.loads(body.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise SourceFailed("the answer is no JSON") from None
    if type(entries) is not list:
        raise SourceFailed("the answer is no list")
    read = [_address(entry) for entry in entries]
    return (
        tuple(each for each in read if isinstance(each, Address)),
        tuple(each for each in read if isinstance(each, str)),
    )


def _address(entry: object) -> Address | str:
    service = _field(entry, "Service", dict, None)
    weights = _field(service, "Weights", dict, {})
    text = _field(service, "Address", str, "")
    if not text:
        # Documented: who registers without an address is at the one of its agent.
        text = _field(_field(entry, "Node", dict, None), "Address", str, "")
    port = _field(service, "Port", int, 0)
    # Documented: 1 where nothing was registered, and never less.
    weight = _field(weights, "Passing", int, 1)
    ip = shortest(text)
    if ip is None:
        return f"{text[:_TEXT_MOST]!a} is no IP address"
    if not 1 <= port <= 65535:
        return f"{ip} with {str(port)[:_TEXT_MOST]} as its port"
    return Address(ip, port, min(max(1, weight), WEIGHT_MOST))


def _field(holder: object, name: str, kind: type[T], default: T | None) -> T:
    """Give a field of an object; ``default`` where it is missing or null, if there is one.

    What has another type was not written by Consul, and then nothing of the answer is believed.
    """
    value = holder.get(name) if isinstance(holder, dict) else None
    if value is None:
        value = default
    # Not isinstance: true is an int.
    if type(value) is not kind:
        raise SourceFailed(f"the answer is no list of instances: {name}")
    return value


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON")


def _read(response: requests.Response) -> bytes:
    status = response.status_code
    if status != 200:
        raise SourceFailed(f"{status}: {_STATUSES.get(status, 'unexpected')}")
    body: bytes = response.raw.read(BODY_MOST + 1, decode_content=False)
    if len(body) > BODY_MOST:
        raise SourceFailed(f"the answer has more than {BODY_MOST} bytes")
    # Asked for more than there is, urllib3 gives what came before the end without a word.
    if response.raw.length_remaining:
        raise SourceFailed("broken off: its end is missing")
    return body


def _reason(error: Exception) -> str:
    """Say what went wrong, in the same words each time; of an outer error's text a part may be the query."""
    inner = met(error)
    if isinstance(error, NeverConnected):
        return f"no connection: {inner}"[: 3 * _TEXT_MOST]
    return "no answer in time" if isinstance(inner, _LATE) else f"broken off: {type(inner).__name__}"
