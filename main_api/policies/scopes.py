"""What a caller may ask for: query parameters that take a scope, and parameters below certain paths alone."""

import re
from collections.abc import Callable, Mapping

from chassis.errors import Forbidden
from main_api.exchange import Call, Proceed, Reply
from main_api.scopes import PARAMETERS_READ, below, paths

_SEGMENT = re.compile(r"(?!\.\.?\Z)[a-zA-Z0-9_.-]+\Z")


def _not_told(_: Call) -> None: ...


class RequireScopes:
    """Refuse, before anything is asked upstream, a query that the caller has no scope for.

    ``needed`` maps a query parameter with its value to a scope. A caller who showed no credential
    has no scope, so it is always refused. ``granted`` is called with each call that is let do what takes
    one, before it goes on, and may refuse it by an error of its own.
    """

    def __init__(
        self, needed: Mapping[tuple[str, str], str], granted: Callable[[Call], object] = _not_told
    ) -> None:
        self._needed = dict(needed)
        self._granted = granted

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Let ``call`` pass or raise :class:`chassis.errors.Forbidden`."""
        special = [asked for asked in call.query if asked in self._needed]
        for name, value in special:
            scope = self._needed[name, value]
            if scope not in call.caller.scopes:
                raise Forbidden(f"{name}={value} takes the scope {scope}")
        if special:
            self._granted(call)
        return proceed(call)


class WithinPaths:
    """Refuse, before anything is asked upstream, parameters that are outside what the caller may read.

    A ``name`` must be below one of the paths that the caller's ``parameters:read`` is narrowed to, and a
    ``prefix`` must have something in common with one; a list without a prefix passes, for the auxiliary
    gives only what is below them. Whoever may read no parameter at all is refused whatever he asks.

    The project is not known here. So the first segment of an absolute name is not judged: the auxiliary
    refuses any project but its own.
    """

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Let ``call`` pass or raise :class:`chassis.errors.Forbidden`."""
        readable = paths(call.caller.scopes)
        if readable is not None:
            if not readable:
                raise Forbidden(f"This takes the scope {PARAMETERS_READ}")
            for field, value in call.query:
                if field in _JUDGED and not _JUDGED[field](_relative(value), readable):
                    raise Forbidden(
                        f"This {field} takes the scope {PARAMETERS_READ}, whole or for a path that holds it"
                    )
        return proceed(call)


def _is_within(path: str, readable: tuple[str, ...]) -> bool:
    return any(below(path, each) for each in readable)


def _meets(path: str, readable: tuple[str, ...]) -> bool:
    return any(path == each or below(path, each) or below(each, path) for each in readable)


_JUDGED: Mapping[str, Callable[[str, tuple[str, ...]], bool]] = {"name": _is_within, "prefix": _meets}


def _relative(name: str) -> str:
    """Give ``name`` without the project, or nothing for one that is not made of proper segments."""
    segments = name.removeprefix("/").split("/")
    if not all(map(_SEGMENT.match, segments)):
        return ""
    return "/".join(segments[1:] if name.startswith("/") else segments)
