"""What the auxiliary may answer: data to be passed on unread, its own errors by table, or nonsense."""

import json
import logging
import re
from typing import Any

from chassis.errors import Detail
from main_api.errors import (
    BadGateway,
    BareServerError,
    Busy,
    GatewayError,
    Malformed,
    ServiceRefused,
    Unexpected,
)
from main_api.exchange import Call, Proceed, Reply
from main_api.upstream.versions import Versions

log = logging.getLogger(__name__)

# The auxiliary's errors that are the client's business, with the statuses they may have.
_KEPT = {"invalid_request": (400,), "forbidden": (403,), "parameter_not_found": (404,)}
_AWS = re.compile(r"aws_[a-z_]{1,40}\Z")
_AWS_STATUSES = (502, 503, 504)
_BUSY = ("overloaded", "upstream_unavailable")
_VERSION = re.compile(r"[A-Za-z0-9._+-]{1,64}\Z")
_TEXT_MOST = 500
_DETAILS_MOST = 20
_RETRY_AFTER_MOST = 3600


def service_version(reply: Reply) -> str | None:
    """Give the version that an answer says of its service, if it says a sane one."""
    value = reply.header("X-Service-Version")
    return value if value is not None and _VERSION.match(value) else None


class Checked:
    """Sends, and lets through only what the contract allows; an instance is ill when it breaks it.

    Passed on: 200 with a complete JSON object, its bytes as they came, and the 304 of a call that was
    conditional. Raised: the service's own
    errors as :class:`ServiceRefused` when they are the client's business, as :class:`Busy` when they
    say "not now", else as :class:`Unexpected` (its 401 above all: that is the gateway's fault); and
    :class:`Malformed` for whatever is not by the contract.
    """

    def __init__(self, send: Proceed, service: str, versions: Versions) -> None:
        self._send = send
        self._service = service
        self._versions = versions

    def __call__(self, call: Call) -> Reply:
        """Send ``call`` and judge the answer."""
        reply = self._send(call)
        self._versions.learn(self._service, service_version(reply))
        refused = _judge(call, reply)
        if refused is not None:
            reply.close()
            raise refused
        return reply


def _judge(call: Call, reply: Reply) -> GatewayError | None:
    if reply.status == 304 and any(name == "If-None-Match" for name, _ in call.headers):
        return None
    if reply.status != 200:
        return _refusal(reply)
    fault = _fault(reply)
    return _broken(reply, Malformed, fault) if fault else None


def _fault(reply: Reply) -> str | None:
    """Name what makes a 200 unfit to be placed into the envelope unread."""
    if _media_type(reply) != "application/json":
        return f"content type {reply.header('Content-Type')!r:.100}"
    if reply.header("Content-Encoding") not in (None, "identity"):
        return f"content encoding {reply.header('Content-Encoding')!r:.100}"
    # Without a length or chunking, the end of the connection would be the only sign of the end.
    if (
        reply.header("Content-Length") is None
        and "chunked" not in (reply.header("Transfer-Encoding") or "").lower()
    ):
        return "neither Content-Length nor chunking: cannot tell whether it is whole"
    body = reply.body
    if not isinstance(body, bytes) or not body.startswith(b"{") or not body.rstrip(b" \t\r\n").endswith(b"}"):
        return "body is not a JSON object"
    return None


def _refusal(reply: Reply) -> GatewayError:
    facts = _error_facts(reply)
    code = facts.get("code")
    sentence = facts.get("error")
    if not isinstance(code, str) or not isinstance(sentence, str):
        kind = BareServerError if reply.status in (502, 503, 504) else Malformed
        return _broken(reply, kind, f"status {reply.status} without the error body")
    if reply.status == 503 and code in _BUSY:
        return _broken(reply, Busy, f"it says {code}")
    allowed = _AWS_STATUSES if _AWS.match(code) else _KEPT.get(code, ())
    if reply.status not in allowed:
        return _broken(reply, Unexpected, f"status {reply.status} with code {code!r:.60}: {sentence!r:.200}")
    # Retry-After on what is not a 503 would promise something that nobody said.
    retry_after = _retry_after(reply, 1) if reply.status == 503 else None
    return ServiceRefused(
        reply.status,
        code,
        _printable(sentence),
        details=_details(facts.get("details")) if reply.status == 400 else (),
        retry_after=retry_after,
        service_version=service_version(reply),
    )


def _printable(text: object) -> str:
    return "".join(character for character in str(text)[:_TEXT_MOST] if character.isprintable())


def _details(given: Any) -> list[Detail]:
    """Copy the service's details field by field; what has not their shape is left out."""
    if not isinstance(given, list):
        return []
    return [
        {
            "field": _printable(item["field"]),
            "message": _printable(item["message"]),
            "value": None if item.get("value") is None else _printable(item["value"]),
        }
        for item in given[:_DETAILS_MOST]
        if isinstance(item, dict) and "field" in item and "message" in item
    ]


def _error_facts(reply: Reply) -> dict[str, Any]:
    if _media_type(reply) != "application/json" or not isinstance(reply.body, bytes):
        return {}
    try:
        facts = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _retry_after(reply: Reply, otherwise: int) -> int:
    value = reply.header("Retry-After") or ""
    return min(int(value), _RETRY_AFTER_MOST) if re.fullmatch(r"[0-9]{1,9}", value) else otherwise


def _media_type(reply: Reply) -> str:
    return (reply.header("Content-Type") or "").partition(";")[0].strip().lower()


def _broken(reply: Reply, kind: type[BadGateway], fault: str) -> BadGateway:
    log.warning("nothing for the client in the answer of auxiliary-service: %s", fault)
    return kind(cause=fault, service_version=service_version(reply), pushback=_retry_after(reply, 0))
