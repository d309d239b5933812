"""One attempt at one instance: a call goes out, a reply or one of our errors comes back."""

import logging
from collections.abc import Callable, Iterable
from time import monotonic
from urllib.parse import quote, urlencode

import requests
from urllib3 import exceptions as urllib3_errors

from main_api.errors import (
    BrokenOff,
    GatewayError,
    GatewayTimeout,
    KeptConnectionClosed,
    Malformed,
    Misdelivered,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Instance, Reply
from main_api.telemetry import Telemetry
from main_api.upstream.session import FAILURES, KeptConnectionEnded, NeverConnected, Session, innermost

log = logging.getLogger(__name__)

OutgoingHeaders = Callable[[Call, float], Iterable[tuple[str, str]]]

# A connection that never came about: nothing of the request was sent.
_NEVER_CONNECTED = (
    urllib3_errors.NewConnectionError,
    urllib3_errors.ConnectTimeoutError,
    urllib3_errors.LocationValueError,
    requests.exceptions.InvalidURL,
)


class Client:
    """Sends calls whose ``instance`` is chosen; the end of every service's pipeline.

    The body of the answer is read whole, ``max_body`` bytes at most. Where the service repeats
    ``X-Request-ID`` in its answers (``echoes_id``), one with another id is not passed on: something on the
    way has mixed two answers up, and the connection is not used again. Raises a
    :class:`main_api.errors.GatewayError` for whatever is no complete HTTP answer; what the answer
    says is not judged here.
    """

    def __init__(
        self,
        session: Session,
        headers: OutgoingHeaders,
        telemetry: Telemetry,
        *,
        max_body: int,
        echoes_id: bool = False,
    ) -> None:
        self._session = session
        self._headers = headers
        self._telemetry = telemetry
        self._max_body = max_body
        self._echoes_id = echoes_id
        self._prepared: dict[tuple[str, str], requests.PreparedRequest] = {}

    def __call__(self, call: Call) -> Reply:
        """Send ``call`` to its instance and give the whole answer before the call's deadline."""
        if call.instance is None:
            raise UpstreamUnavailable(cause="no instance")
        begun = monotonic()
        outcome = "cancelled"
        try:
            reply = self._exchange(call, call.instance.url, call.deadline - begun)
            outcome = f"{reply.status // 100}xx"
        except GatewayError as error:
            outcome = error.code
            log.warning("%s: %s", call.instance.url, error.cause)
            raise
        else:
            return reply
        finally:
            seconds = monotonic() - begun
            call.trail.waited(seconds)
            self._telemetry.upstream(call.instance.service, call.instance.url, outcome, seconds)

    def forget(self, instance: Instance) -> None:
        """Let go of what is kept for an instance that is no more."""
        for key in [key for key in list(self._prepared) if key[1] == instance.url]:
            self._prepared.pop(key, None)
        self._session.forget(instance.url)

    def _exchange(self, call: Call, url: str, left: float) -> Reply:
        if left <= 0:
            raise GatewayTimeout(cause="no time left before sending")
        try:
            response = self._session.send(self._request(call, url, left), call.deadline, fresh=call.fresh)
        except FAILURES as error:
            raise _translated(error, call.deadline) from error
        try:
            answered = response.headers.get("X-Request-ID") if self._echoes_id else None
            if answered not in (None, call.request_id):
                raise Misdelivered(cause=f"the answer is that of the request {answered!r:.80}")
            body = self._read(response, call.deadline)
        except BaseException:
            # A half-read connection must not go back into the pool.
            response.close()
            raise
        return Reply(response.status_code, tuple(response.raw.headers.items()), body)

    def _request(self, call: Call, url: str, left: float) -> requests.PreparedRequest:
        template = self._prepared.get((call.method, url))
        if template is None:
            template = self._prepared[call.method, url] = self._session.prepare(call.method, url)
        request = template.copy()
        query = f"?{urlencode(call.query, quote_via=quote, safe='')}" if call.query else ""
        request.url = f"{url}{call.path}{query}"
        request.headers.update(self._headers(call, left))
        if call.body:
            request.body = call.body
            request.headers["Content-Length"] = str(len(call.body))
        return request

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        raw = response.raw
        length = response.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > self._max_body):
            raise Malformed(cause=f"answer of {length} bytes is over UPSTREAM_MAX_BODY")
        try:
            body: bytes = raw.read(self._max_body + 1, decode_content=False)
        except (urllib3_errors.HTTPError, OSError) as error:
            raise _translated(error, deadline) from error
        # Asked for more than there is, urllib3 gives what came before the end without a word.
        if raw.length_remaining:
            raise BrokenOff(cause=f"{raw.length_remaining} bytes of the answer are missing")
        if len(body) > self._max_body:
            raise Malformed(cause="answer is over UPSTREAM_MAX_BODY")
        return body


def _translated(error: Exception, deadline: float) -> GatewayError:
    """Turn an exception of requests, urllib3 or the socket into one of ours, by type and clock."""
    # The outer exceptions carry the URL in their text, and a query string is never logged.
    reason = innermost(error)
    cause = f"{type(reason).__name__}: {reason}".partition("?")[0]
    if isinstance(error, KeptConnectionEnded):
        return KeptConnectionClosed(cause=cause)
    if isinstance(error, NeverConnected) or isinstance(reason, _NEVER_CONNECTED):
        # Not having connected within CONNECT_TIMEOUT is the instance's fault; at the deadline it is time's.
        if monotonic() >= deadline:
            return GatewayTimeout(cause=cause)
        return UpstreamUnavailable(cause=cause)
    if isinstance(reason, (requests.Timeout, urllib3_errors.TimeoutError, TimeoutError)):
        return GatewayTimeout(cause=cause)
    return BrokenOff(cause=cause)
