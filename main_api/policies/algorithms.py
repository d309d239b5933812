"""Whose turn it is: the algorithms of load balancing, apart from what they choose for.

Each picks one of ``candidates``, which is never empty and has left out whoever cannot be asked.
"""

import hashlib
import itertools
import math
import random as random_module
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from main_api.exchange import Call, Instance


class Algorithm(Protocol):
    """One way to choose; safe under threads."""

    def pick(self, candidates: Sequence[Instance], call: Call) -> Instance:
        """Choose one of ``candidates``."""


class RoundRobin:
    """One after the other.

    Further attempts of a call have turns of their own: of two instances with an ill one, whose every call
    is repeated at the other, the ill one would get all first attempts.
    """

    def __init__(self) -> None:
        # next() on a counter is one step of the interpreter: threads never get the same number.
        self._first = itertools.count()
        self._further = itertools.count()

    def pick(self, candidates: Sequence[Instance], call: Call) -> Instance:
        """Choose the next one."""
        turn = next(self._further if call.trail.asked else self._first)
        return candidates[turn % len(candidates)]


class LeastConnections:
    """Whoever has the fewest calls under way; among equals, one after the other."""

    def __init__(self, in_flight: Callable[[Instance], int]) -> None:
        self._in_flight = in_flight
        self._ties = RoundRobin()

    def pick(self, candidates: Sequence[Instance], call: Call) -> Instance:
        """Choose the least busy one."""
        busy = [self._in_flight(each) for each in candidates]
        least = min(busy)
        return self._ties.pick(
            [each for each, calls in zip(candidates, busy, strict=True) if calls == least], call
        )


_CREDITS_MOST = 1024


class Weighted:
    """Each in proportion to its weight, spread evenly: nginx's smooth weighted round robin.

    Of weights 3 and 1 come a, a, b, a and not a, a, a, b.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._credit: dict[Instance, int] = {}

    def pick(self, candidates: Sequence[Instance], call: Call) -> Instance:
        """Choose the one with the most credit; each gets its weight, the chosen one pays for all."""
        with self._lock:
            if len(self._credit) > _CREDITS_MOST:
                # Most of them are of instances that are no more.
                self._credit = {each: self._credit.get(each, 0) for each in candidates}
            for each in candidates:
                self._credit[each] = self._credit.get(each, 0) + each.weight
            chosen = max(candidates, key=self._credit.__getitem__)
            self._credit[chosen] -= sum(each.weight for each in candidates)
            return chosen


class Random:
    """Any, each as likely as another."""

    def __init__(self, random: Callable[[], float] = random_module.random) -> None:
        self._random = random

    def pick(self, candidates: Sequence[Instance], call: Call) -> Instance:
        """Choose blindly."""
        return candidates[int(self._random() * len(candidates))]


class ConsistentHash:
    """Equal keys to the same instance, in proportion to the weights: rendezvous hashing.

    When one of n instances leaves, only its own keys move, to all others alike, and they come back
    with it (Thaler and Ravishankar, 1998; weights by Schindelhauer and Schomaker, 2005).
    """

    def __init__(self, key: Callable[[Call], str]) -> None:
        self._key = key

    def pick(self, candidates: Sequence[Instance], call: Call) -> Instance:
        """Choose the one that scores highest for the call's key."""
        key = self._key(call).encode("utf-8", "surrogatepass")
        return max(candidates, key=lambda each: _score(key, each))


def _score(key: bytes, instance: Instance) -> float:
    digest = hashlib.blake2b(key, key=_short(instance.url), digest_size=8).digest()
    # Within (0, 1), never its ends: the logarithm of neither is of use.
    place = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
    return -instance.weight / math.log(place) if place < 1 else math.inf


def _short(url: str) -> bytes:
    raw = url.encode()
    return raw if len(raw) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.blake2b(raw, digest_size=32).digest()


def hash_key(by: str) -> Callable[[Call], str]:
    """Read what a consistent hash goes by: ``path``, ``caller`` or ``header:<name>``.

    The path includes the query, for that is where the pair's parameters have their names. A caller is its
    subject, or its address while it has none. Raises :class:`ValueError` for anything else.
    """
    if by == "path":
        return lambda call: f"{call.path}?{call.query}"
    if by == "caller":
        return lambda call: call.caller.subject or call.caller.address
    kind, _, name = by.partition(":")
    if kind != "header" or not name:
        raise ValueError(f"path, caller or header:<name> needed, got {by!r}")
    return lambda call: call.client_header(name) or ""
