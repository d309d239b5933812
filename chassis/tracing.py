"""W3C Trace Context (2021-11-23): exactly one ``traceparent`` goes on, the trace id is kept."""

import re
import secrets
from typing import NamedTuple

from flask import Flask, g, request

from chassis.json_logs import request_context

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_TRACESTATE_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]\Z"
)
_TRACESTATE_MOST = 512


class Trace(NamedTuple):
    """This service's place in a trace: what goes into the outgoing headers."""

    trace_id: str
    span_id: str
    flags: str
    state: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an outgoing call."""
        headers = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{self.flags}"}
        if self.state:
            headers["tracestate"] = self.state
        return headers


def continue_trace(traceparent: str, tracestate: str) -> Trace:
    """Continue the caller's trace, or begin one when the header is absent or not by the rules.

    A version later than 00 is read by its first four fields; ``ff`` and all-zero ids are invalid.
    ``tracestate`` goes on unchanged when it is well-formed and at most 512 characters, and is
    dropped with an invalid ``traceparent``.
    """
    found = _TRACEPARENT.match(traceparent)
    span_id = secrets.token_hex(8)
    if found is None or not _valid(*found.groups()):
        return Trace(secrets.token_hex(16), span_id, "00", "")
    # Of the flags only `sampled` is known to version 00; the rest must not be passed on.
    flags = f"{int(found[4], 16) & 1:02x}"
    return Trace(found[2], span_id, flags, tracestate if _well_formed(tracestate) else "")


def _valid(version: str, trace_id: str, parent_id: str, flags: str, rest: str | None) -> bool:
    return (
        version != "ff"
        and int(trace_id, 16) != 0
        and int(parent_id, 16) != 0
        and not (version == "00" and rest)
    )


def _well_formed(tracestate: str) -> bool:
    if not tracestate or len(tracestate) > _TRACESTATE_MOST:
        return False
    members = [member.strip(" \t") for member in tracestate.split(",")]
    return len(members) <= 32 and all(not member or _TRACESTATE_MEMBER.match(member) for member in members)


def install(app: Flask) -> None:
    """Give every request its place in a trace, ``g.trace``, and its log lines the ``traceId``."""
    app.before_request(_take)


def _take() -> None:
    headers = request.headers
    g.trace = continue_trace(headers.get("traceparent", ""), headers.get("tracestate", ""))
    request_context.set({**request_context.get(), "traceId": g.trace.trace_id})
