"""Lists that AWS gives in pages: read whole pages until the end, the limit, or the end of the time."""

import logging
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from auxiliary_service.errors import AwsError, AwsTimeout

T = TypeVar("T")

LATE = "The whole list did not fit into the time of the request: ask with `limit` and follow `nextToken`"

log = logging.getLogger(__name__)


class Page(NamedTuple, Generic[T]):
    """Some of a list's items, and AWS's token for those that follow, ``None`` at the end."""

    items: tuple[T, ...]
    next_token: str | None


class Patience(Protocol):
    """How much longer somebody waits for a result."""

    def lasts(self) -> bool:
        """Whether another call may be begun; once it says no it never says yes again."""

    def offer(self, so_far: object) -> None:
        """Leave what there is for waiters whose time ends before the result is complete."""


def read_pages(
    fetch: Callable[[str | None], Page[T]],
    patience: Patience,
    *,
    start: str | None,
    size: int,
    limit: int | None,
) -> Page[T]:
    """Read pages of at most ``size`` items with ``fetch``, beginning at the token ``start``.

    Without ``limit`` the result is the whole rest of the list, or :class:`AwsTimeout` when patience
    ends first. With it, pages are read while a whole one surely fits, so that no item is ever cut off,
    and when patience ends the pages read so far are the result. A page may be empty and yet have a
    token. A token that AWS gives twice would never end: :class:`AwsError`.
    """
    items: list[T] = []
    token = start
    seen = {start}
    while patience.lasts():
        page = fetch(token)
        items += page.items
        token = page.next_token
        if token is None:
            return Page(tuple(items), None)
        if token in seen:
            log.error("AWS gave the same continuation token twice")
            raise AwsError
        seen.add(token)
        if limit is not None:
            so_far = Page(tuple(items), token)
            if len(items) + size > limit:
                return so_far
            patience.offer(so_far)
    if limit is None:
        raise AwsTimeout(LATE)
    if token == start:
        raise AwsTimeout
    return Page(tuple(items), token)
