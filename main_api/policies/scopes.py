"""What a caller may ask for: query parameters that take a scope."""

from collections.abc import Mapping

from chassis.errors import Forbidden
from main_api.exchange import Call, Proceed, Reply


class RequireScopes:
    """Refuse, before anything is asked upstream, a query that the caller has no scope for.

    ``needed`` maps a query parameter with its value to a scope. A caller who showed no credential
    has no scope, so it is always refused.
    """

    def __init__(self, needed: Mapping[tuple[str, str], str]) -> None:
        self._needed = dict(needed)

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Let ``call`` pass or raise :class:`chassis.errors.Forbidden`."""
        for asked in call.query:
            scope = self._needed.get(asked)
            if scope is not None and scope not in call.caller.scopes:
                raise Forbidden(f"{asked[0]}={asked[1]} takes the scope {scope}")
        return proceed(call)
