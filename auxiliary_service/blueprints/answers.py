"""Answers with data: envelope, weak ETag, ``Cache-Control``, and 304 for who has them already."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, request

from auxiliary_service.blueprints.callers import current
from chassis import timestamp

STALE_IF_ERROR = 300
NO_STORE = "no-store"
# What tells two states of an item apart. SSM's version alone starts again at 1 when a parameter is
# made anew, and a value must not be part: the tag of a secret would be a hash of it.
_TAGGED = ("name", "type", "version", "lastModifiedDate", "creationDate")


def cache_control(max_age: int) -> str:
    """Let a copy be used for ``max_age`` seconds, and while AWS fails for five minutes more (RFC 5861)."""
    return f"max-age={max_age}, stale-if-error={STALE_IF_ERROR}"


def listing(
    items: Sequence[Mapping[str, Any]], next_token: str | None, cached: str, asked: tuple[object, ...]
) -> Response:
    """Answer with a list; ``asked`` is what of the request is part of the tag."""
    body: dict[str, object] = {"success": True, "data": items, "count": len(items), "timestamp": timestamp()}
    if next_token is not None:
        body["nextToken"] = next_token
    # Whether there is more is part of the tag, AWS's own token is not: it may differ each time.
    return _answer(body, items, cached, (*asked, next_token is not None))


def single(item: Mapping[str, Any], cached: str, asked: tuple[object, ...]) -> Response:
    """Answer with one item; ``asked`` is what of the request is part of the tag."""
    body = {"success": True, "data": item, "timestamp": timestamp()}
    return _answer(body, (item,), cached, asked)


def _answer(
    body: Mapping[str, object], items: Sequence[Mapping[str, Any]], cached: str, asked: tuple[object, ...]
) -> Response:
    tag = _tag(items, asked)
    headers = {"ETag": f'W/"{tag}"', "Cache-Control": cached}
    # Weak comparison, lists and `*` (RFC 9110, 13.1.2).
    if request.if_none_match.contains_weak(tag):
        return Response(status=304, headers=headers)
    return Response(json.dumps(body, separators=(",", ":")), content_type="application/json", headers=headers)


def _tag(items: Sequence[Mapping[str, Any]], asked: tuple[object, ...]) -> str:
    caller = current()
    facts = [
        [[item.get(field) for field in _TAGGED] for item in items],
        asked,
        [caller.trusted, sorted(caller.scopes)],
    ]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()
