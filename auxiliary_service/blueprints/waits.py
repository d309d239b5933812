"""How long the caller waits: ``X-Request-Timeout-Ms``, read and kept."""

from collections.abc import Callable, Hashable
from time import perf_counter
from typing import TypeVar

from flask import g, request

from auxiliary_service.aws.pages import LATE, Patience
from auxiliary_service.aws.shared_reads import ReadKey, SharedReads
from auxiliary_service.errors import InvalidRequest
from auxiliary_service.schemas.query import fault
from chassis.metrics import elapsed

T = TypeVar("T")

HEADER = "X-Request-Timeout-Ms"
DEFAULT_SECONDS = 10.0
MOST_SECONDS = 60.0
_DIGITS_MOST = 15


def seconds_left() -> float:
    """Give what is left of the time that the caller waits; may be below zero.

    The header is whole milliseconds in plain digits, counted from the request's arrival here; 0 is
    no time at all. More than 60 s count as 60, without the header it is 10; anything else is
    :class:`InvalidRequest`.
    """
    header = request.headers.get(HEADER)
    if header is None:
        return DEFAULT_SECONDS - elapsed()
    if not (header.isascii() and header.isdigit() and len(header) <= _DIGITS_MOST):
        raise InvalidRequest(details=[fault(HEADER, "must be whole milliseconds", header)])
    return min(int(header) / 1000, MOST_SECONDS) - elapsed()


def read_in_time(
    reads: SharedReads,
    operation: str,
    arguments: tuple[Hashable, ...],
    work: Callable[[Patience], T],
    *,
    whole_list: bool = False,
) -> T:
    """Read through ``reads`` within the caller's time, and tell the access log how long it took."""
    seconds = seconds_left()
    began = perf_counter()
    try:
        return reads.read(ReadKey(operation, arguments), work, seconds, late=LATE if whole_list else None)
    finally:
        g.upstream_seconds = perf_counter() - began
