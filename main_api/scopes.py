"""Scopes: the words that say what a caller may do, and the paths that a word may be narrowed to.

A scope is one of :data:`SCOPES`, or ``parameters:read:/<path>/**``: all parameters below that path of the
project, and no others. OAuth's syntax (RFC 6749, 3.3) has room for both: a set is a space-separated list.
"""

import re
from collections.abc import Collection, Iterator

BUCKETS_READ = "buckets:read"
PARAMETERS_READ = "parameters:read"
PARAMETERS_DECRYPT = "parameters:decrypt"
GATEWAY_OPERATE = "gateway:operate"
SCOPES = (BUCKETS_READ, PARAMETERS_READ, PARAMETERS_DECRYPT, GATEWAY_OPERATE)
# What whoever reaches the port may do where nobody is asked who he is.
ANYBODY = frozenset((BUCKETS_READ, PARAMETERS_READ))

# SSM takes 15 levels, of which the project is one and the parameter's own name another, and names of 1,011
# characters: no parameter is below a path that is longer, and SSM would refuse to be asked for it.
_LEVELS_MOST = 13
_PATH_MOST = 1009
_NARROWED = re.compile(
    rf"{PARAMETERS_READ}:/(?=.{{1,{_PATH_MOST}}}/\*\*\Z)"
    rf"((?:(?!\.\.?/)[a-zA-Z0-9_.-]{{1,256}}/){{1,{_LEVELS_MOST}}})\*\*\Z",
    re.ASCII,
)


def valid(scope: str) -> bool:
    """Whether ``scope`` is one that there is."""
    return scope in SCOPES or _NARROWED.match(scope) is not None


def holds(scopes: Collection[str], needed: str) -> bool:
    """Whether somebody with ``scopes`` may do what takes ``needed``, for some path at least."""
    return needed in scopes or (needed == PARAMETERS_READ and bool(paths(scopes)))


def paths(scopes: Collection[str]) -> tuple[str, ...] | None:
    """Give the paths whose parameters may be read, such as ``database``; None for all there are.

    Sorted, none of them below another one; no path, no parameter.
    """
    if PARAMETERS_READ in scopes:
        return None
    found = {match[1].rstrip("/") for match in map(_NARROWED.match, scopes) if match}
    return tuple(sorted(each for each in found if found.isdisjoint(_above(each))))


def below(path: str, above: str) -> bool:
    """Whether ``path`` is somewhere below ``above``; both without slashes at their ends."""
    return path.startswith(f"{above}/")


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
