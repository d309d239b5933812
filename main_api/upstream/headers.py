"""Which headers a service is sent."""

from collections.abc import Iterator

from urllib3.util import SKIP_HEADER

from main_api.exchange import Call
from main_api.scopes import valid

# The auxiliary answers aws_timeout this much before our own deadline, so that its coded error arrives.
MARGIN_MS = 100


def for_auxiliary(call: Call, left: float, internal_token: str | None) -> Iterator[tuple[str, str]]:
    """Give all that the auxiliary is told; nothing of the client's own headers is among it.

    ``left`` is in seconds. ``call.headers`` are the tracing headers of this hop. ``Accept`` is ours,
    so that errors come in the form that is understood here, and scopes go only with the token that
    makes them believed.
    """
    yield "Accept", "application/json"
    yield "User-Agent", SKIP_HEADER
    yield "X-Request-ID", call.request_id
    yield "X-Request-Timeout-Ms", str(max(1, int(left * 1000) - MARGIN_MS))
    yield from call.headers
    if internal_token:
        yield "Authorization", f"Bearer {internal_token}"
        # A word with a space in it would be two, of which one could be a scope.
        yield "X-Internal-Scopes", " ".join(sorted(filter(valid, call.caller.scopes)))
