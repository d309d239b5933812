"""What is known to be revoked of one kind: names in bounded room, each with two moments."""

from collections.abc import Iterator, Sequence
from itertools import islice

# Pairs of moments that are kept to be shared.
_PAIRS_MOST = 4096


class Listed:
    """Names, the oldest first, and the latest that was said of each; changed by one thread at a time.

    ``lacking`` are those that the shared list is not known to have, and in which round they were sent there.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.names: dict[str, tuple[float, float]] = {}
        self.lacking: dict[str, int] = {}
        self._pairs: dict[tuple[float, float], tuple[float, float]] = {}
        self._looking: Iterator[str] = iter(())

    def put(self, name: str, before: float, until: float) -> bool:
        """Add to what is known of ``name``; whether that is more than before."""
        known = self.names.get(name, (0.0, 0.0))
        pair = (max(before, known[0]), max(until, known[1]))
        if pair == known:
            return False
        # Most are revoked in the same minute as others that live as long: they share the pair.
        if len(self._pairs) > _PAIRS_MOST:
            self._pairs.clear()
        self.names[name] = self._pairs.setdefault(pair, pair)
        return True

    def says(self, name: str, before: float, until: float) -> bool:
        """Whether no more is known of ``name`` than this."""
        known = self.names.get(name, (0.0, 0.0))
        return known[0] <= before and known[1] <= until

    def look(self, now: float, count: int) -> None:
        """Forget, of the next ``count`` names, those that are over."""
        names = list(islice(self._looking, count))
        if not names and self.names:
            # A copy, for names come and go meanwhile.
            self._looking = iter(list(self.names))
            names = list(islice(self._looking, count))
        self._forget([each for each in names if each in self.names and self.names[each][1] < now])

    def shorten(self, now: float) -> tuple[float, float] | None:
        """Make room; give the latest moments of those that were let go though they are not over."""
        self._looking = iter(())
        self.look(now, len(self.names))
        let_go = list(islice(self.names, max(0, len(self.names) - self.most * 9 // 10)))
        pairs = [self.names[each] for each in let_go]
        self._forget(let_go)
        return (max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)) if pairs else None

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self.names.pop(name, None)
            self.lacking.pop(name, None)
