"""Between Flask and the pipeline: a request becomes a call, a reply becomes a response.

The only Flask below the blueprints.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from flask import Response, g, request
from marshmallow import Schema, ValidationError

from chassis.client_address import ClientAddress
from chassis.errors import BadRequest, Detail, ValidationFailed
from main_api.exchange import Call, Caller, Reply, Stream
from main_api.routing import envelope
from main_api.routing.pipeline import Pipeline
from main_api.routing.route import Route, ToService

# Of a service's headers only these are the client's business on the routes that are enveloped.
_PASSED = frozenset(("etag", "cache-control", "age", "cache-status"))
_VALUE_MOST = 200
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_DIGITS_MOST = 15


@dataclass(frozen=True, slots=True)
class Door:
    """What every view needs beside its route.

    ``versions`` gives what an answer shows as ``versions``, from the reply at hand or what was learnt.
    """

    request_timeout: float
    client_address: ClientAddress
    versions: Callable[[Reply], Mapping[str, str]]


def view(route: Route, pipeline: Pipeline, door: Door) -> Callable[[], Response]:
    """Make the Flask view of ``route``."""
    to_service = isinstance(route.end, ToService)
    # Made once: making a schema costs several times what loading a query with it does.
    schema = route.query() if route.query else None

    def forward(**_: str) -> Response:
        # What the rule's variables are is in the call's path, for those who have use for it.
        call = _call(route, schema, door)
        try:
            reply = pipeline(call)
        finally:
            g.upstream_seconds = call.trail.upstream_seconds
            g.upstream_attempts = len(call.trail.asked)
        return _response(reply, door if to_service else None)

    forward.__doc__ = route.documentation.summary
    return forward


def let_go(error: BaseException | None) -> None:
    """Close the reply of a request whose response was made and then lost, by a fault of a later hook.

    Register it as ``teardown_request``: without it, what the policies hold for the call would stay held.
    """
    reply = g.pop("reply", None)
    if error is not None and reply is not None:
        reply.close()


def _call(route: Route, schema: Schema | None, door: Door) -> Call:
    begun = monotonic()
    if request.content_length or "Transfer-Encoding" in request.headers:
        raise BadRequest("A request body is not accepted here")
    to_service = isinstance(route.end, ToService)
    path = route.end.path if isinstance(route.end, ToService) else request.path
    address = door.client_address(request.remote_addr or "", request.headers.get("X-Forwarded-For", ""))
    return Call(
        # A HEAD is asked as the GET it is an abridgement of: one form to cache and to compare.
        method="GET" if request.method == "HEAD" else request.method,
        path=path,
        query=_query(schema),
        headers=tuple(g.trace.headers.items()),
        deadline=begun + (_seconds(door.request_timeout) if to_service else door.request_timeout),
        caller=Caller(address),
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


def _query(schema: Schema | None) -> tuple[tuple[str, str], ...]:
    """Check the query string by the route's schema; give it as it goes on."""
    if schema is None:
        return ()
    given = dict(request.args.lists())
    faults: dict[str, list[str]] = {name: ["Repeated"] for name, values in given.items() if len(values) > 1}
    values = {name: values[0] for name, values in given.items()}
    try:
        loaded = schema.load(values)
    except ValidationError as error:
        messages: dict[str, list[str]] = error.normalized_messages()  # type: ignore[no-untyped-call]  # marshmallow's own gap
        faults = {**messages, **faults}
        loaded = {}
    if faults:
        raise ValidationFailed(details=[_detail(name, faults[name], given) for name in sorted(faults)])
    return tuple(loaded.items())


def _detail(name: str, messages: list[str], given: Mapping[str, list[str]]) -> Detail:
    sent = given.get(name)
    value = None if sent is None else ",".join(sent)[:_VALUE_MOST]
    return {"field": name[:_VALUE_MOST], "message": " ".join(messages), "value": value}


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
