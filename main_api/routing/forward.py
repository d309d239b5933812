"""Between Flask and the pipeline: a request becomes a call, a reply becomes a response.

The only Flask below the blueprints.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from flask import Response, g, request

from chassis.client_address import ClientAddress
from chassis.errors import BadRequest, Detail, ValidationFailed
from main_api.exchange import Call, Caller, Policy, Reply, Stream, Trail
from main_api.routing import envelope
from main_api.routing.pipeline import Pipeline
from main_api.routing.route import Route, ToService

# Of a service's headers only these are the client's business on the routes that are enveloped.
_PASSED = frozenset(("etag", "cache-control", "age", "cache-status"))
_VALUE_MOST = 200
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_DIGITS_MOST = 15
# What only a shared cache looks at, or what contradicts `private`.
_SHARED = ("public", "s-maxage", "proxy-revalidate")


@dataclass(frozen=True, slots=True)
class Door:
    """What every view needs beside its route.

    ``versions`` gives what an answer shows as ``versions``, from the reply at hand or what was learnt;
    ``everybody`` are the scopes of somebody who has shown nothing.
    """

    request_timeout: float
    client_address: ClientAddress
    versions: Callable[[Reply], Mapping[str, str]]
    everybody: frozenset[str] = frozenset()


def view(route: Route, pipeline: Pipeline, door: Door) -> Callable[[], Response]:
    """Make the Flask view of ``route``."""
    to_service = isinstance(route.end, ToService)

    def forward(**_: str) -> Response:
        # What the rule's variables are is in the call's path, for those who have use for it.
        call = _call(route, door)
        try:
            reply = pipeline(call)
        finally:
            _tell(call.trail)
        return _response(reply, door if to_service else None)

    forward.__doc__ = route.documentation.summary
    return forward


def behind(policy: Policy, door: Door, plain: Callable[..., Any]) -> Callable[[], Any]:
    """Put ``policy`` before a view that is no route."""

    def guarded() -> Any:
        call = _made(door, request.path, door.request_timeout, b"")
        try:
            policy(call, _pass).close()
        finally:
            _tell(call.trail)
        return plain()

    return guarded


def _pass(_: Call) -> Reply:
    return Reply(204)


def _tell(trail: Trail) -> None:
    """Leave for the hooks what a call met, whether it was answered or not."""
    g.upstream_seconds = trail.upstream_seconds
    g.upstream_attempts = len(trail.asked)
    g.trail = trail


def add_trail(response: Response) -> Response:
    """Put onto an answer, errors included, what its call left for it; register it as ``after_request``."""
    trail: Trail | None = g.get("trail")
    if trail is None:
        return response
    if trail.headers:
        response.headers.extend(trail.headers)
    if trail.caller is not None:
        # What needed a credential is in no cache that somebody else may read (RFC 9111, 5.2.2.7).
        response.headers["Cache-Control"] = private(response.headers.get("Cache-Control"))
    return response


def private(cache_control: str | None) -> str:
    """Give the ``Cache-Control`` of an answer to somebody known."""
    if not cache_control:
        return "no-store"
    if "no-store" in cache_control or "private" in cache_control:
        return cache_control
    rest = [each.strip() for each in cache_control.split(",")]
    return ", ".join(("private", *(each for each in rest if each and not each.startswith(_SHARED))))


def let_go(error: BaseException | None) -> None:
    """Close the reply of a request whose response was made and then lost, by a fault of a later hook.

    Register it as ``teardown_request``: without it, what the policies hold for the call would stay held.
    """
    reply = g.pop("reply", None)
    if error is not None and reply is not None:
        reply.close()


def _call(route: Route, door: Door) -> Call:
    body = b"" if route.body is None else _body()
    if route.body is None and (request.content_length or "Transfer-Encoding" in request.headers):
        raise BadRequest("A request body is not accepted here")
    if isinstance(route.end, ToService):
        return _made(door, route.end.path, _seconds(door.request_timeout), body)
    return _made(door, request.path, door.request_timeout, body)


def _body() -> bytes:
    """Read the JSON of the request; Flask bounds it (``MAX_CONTENT_LENGTH``)."""
    if request.mimetype != "application/json":
        raise BadRequest("The body must be JSON: send Content-Type: application/json")
    return request.get_data(cache=False)


def _made(door: Door, path: str, seconds: float, body: bytes) -> Call:
    begun = monotonic()
    address = door.client_address(request.remote_addr or "", request.headers.get("X-Forwarded-For", ""))
    return Call(
        # A HEAD is asked as the GET it is an abridgement of: one form to cache and to compare.
        method="GET" if request.method == "HEAD" else request.method,
        path=path,
        # Not looked at without need: Werkzeug takes longer for an empty one than all that follows.
        query=tuple(request.args.items(multi=True)) if request.query_string else (),
        headers=tuple(g.trace.headers.items()),
        body=body,
        deadline=begun + seconds,
        caller=Caller(address, scopes=door.everybody),
        request_id=g.request_id,
        client_header=request.headers.get,
    )


def _seconds(most: float) -> float:
    """Give the time of this request: what the client asks for, never more than ``most``."""
    asked = request.headers.get(TIMEOUT_HEADER)
    if asked is None:
        return most
    if not (asked.isascii() and asked.isdigit() and len(asked) <= _DIGITS_MOST):
        fault: Detail = {
            "field": TIMEOUT_HEADER,
            "message": "Must be whole milliseconds",
            "value": asked[:_VALUE_MOST],
        }
        raise ValidationFailed(details=[fault])
    return min(int(asked) / 1000, most)


def _response(reply: Reply, door: Door | None) -> Response:
    """Make the response of a reply; ``door`` is given where the body goes into the envelope."""
    try:
        made = _not_modified(reply, door) or (_enveloped(reply, door) if door else _plain(reply))
    except BaseException:
        reply.close()
        raise
    # WSGI promises close() whether the body was sent, broke off or was never asked for (PEP 3333).
    made.call_on_close(reply.close)
    g.reply = reply
    return made


def _enveloped(reply: Reply, door: Door) -> Response:
    if isinstance(reply.body, Stream):
        raise TypeError("an enveloped answer is read whole")
    body = envelope.wrap(reply.body, door.versions(reply))
    return Response(body, content_type="application/json", headers=_passed(reply))


def _plain(reply: Reply) -> Response:
    body = iter(reply.body) if isinstance(reply.body, Stream) else reply.body
    return Response(body, status=reply.status, headers=list(reply.headers))


def _not_modified(reply: Reply, door: Door | None) -> Response | None:
    """Make the 304 where the client's ``If-None-Match`` has the answer's tag (RFC 9110, 13.1.2: weakly)."""
    tag = reply.header("ETag")
    if tag is None or reply.status != 200 or "If-None-Match" not in request.headers:
        return None
    if not request.if_none_match.contains_weak(tag.removeprefix("W/").strip('"')):
        return None
    response = Response(status=304, headers=_passed(reply))
    # A browser takes a 304's fields over into its copy (RFC 9111, 4.3.4): a page keeps its own policy.
    if door is None and (policy := reply.header("Content-Security-Policy")):
        response.headers["Content-Security-Policy"] = policy
    del response.headers["Content-Type"]
    return response


def _passed(reply: Reply) -> list[tuple[str, str]]:
    return [(name, value) for name, value in reply.headers if name.lower() in _PASSED]
