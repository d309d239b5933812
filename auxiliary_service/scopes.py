"""Scopes: the words in which the gateway says what its caller may read, and the paths they are narrowed to.

``parameters:read:/<path>/**`` is for the parameters below that path of the project and no others. A word
that is not known here allows nothing. Paths are relative to the project, without slashes at their ends.
"""

import re
from collections.abc import Collection, Iterator

BUCKETS_READ = "buckets:read"
PARAMETERS_READ = "parameters:read"
PARAMETERS_DECRYPT = "parameters:decrypt"
PROJECT = ""
"""The path of the whole project."""

# Of SSM's 15 levels and 1,011 characters, the project and the parameter's own name take some.
_LEVELS_MOST = 13
_PATH_MOST = 1009
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[a-zA-Z0-9_.-]{1,256}\Z")
_BEGIN, _END = f"{PARAMETERS_READ}:/", "/**"
# RFC 6749's tokens and the space between them, but no comma: a server joins repeated headers with it.
_LIST = re.compile(r"[ -+\--~]*\Z")


def listed(header: str) -> frozenset[str]:
    """Give the words of a space-separated list (RFC 6749, 3.3).

    A list that is not well-formed, or was sent in several headers, has none: what stands at the seams of
    such a list is not what anybody wrote.
    """
    return frozenset(filter(None, header.split(" "))) if _LIST.match(header) else frozenset()


def paths(scopes: Collection[str]) -> tuple[str, ...] | None:
    """Give the paths whose parameters may be read; None for all there are.

    Sorted, none of them below another one; no path, no parameter.
    """
    if PARAMETERS_READ in scopes:
        return None
    found = {path for path in map(_narrowed_to, scopes) if path is not None}
    return tuple(sorted(path for path in found if found.isdisjoint(_above(path))))


def may_read(name: str, readable: tuple[str, ...] | None) -> bool:
    """Whether the parameter ``name`` is one of those below the ``readable`` paths (None: all of them)."""
    return readable is None or any(_below(name, path) for path in readable)


def narrowed(prefix: str | None, readable: tuple[str, ...] | None) -> tuple[str, ...]:
    """Give the paths that hold what was asked by ``prefix`` (None: everything) and is ``readable``, sorted.

    None of them is below another one if none of ``readable`` is. Empty where the two do not meet.
    """
    if readable is None:
        return (PROJECT if prefix is None else prefix,)
    if prefix is None:
        return readable
    if prefix in readable or may_read(prefix, readable):
        return (prefix,)
    return tuple(path for path in readable if _below(path, prefix))


def _narrowed_to(scope: str) -> str | None:
    if not (scope.startswith(_BEGIN) and scope.endswith(_END)):
        return None
    path = scope[len(_BEGIN) : -len(_END)]
    segments = path.split("/")
    if len(path) > _PATH_MOST or len(segments) > _LEVELS_MOST:
        return None
    return path if all(_SEGMENT.match(segment) for segment in segments) else None


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _below(path: str, above: str) -> bool:
    return path.startswith(f"{above}/")
