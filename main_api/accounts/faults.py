"""What is wrong with an accounts file: a sentence each, without a secret in any of them."""

import difflib
from collections.abc import Iterable
from functools import lru_cache

# More help nobody, and somebody has to keep them.
_TOLD_MOST = 100
# Longer than any name that one writes by hand, shorter than a digest, a key or a password's hash.
_SHOWN_MOST = 40
_KNOWN_MOST = 100


class AccountsFault(Exception):
    """The accounts are unusable; ``faults`` has one sentence per fault, each begins with its place."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("accounts are wrong:\n" + "\n".join(f"  {fault}" for fault in faults))


class Faults:
    """Collects sentences, the first hundred of them."""

    def __init__(self) -> None:
        self._told: list[str] = []
        self._untold = 0

    @property
    def full(self) -> bool:
        """Whether what is added now is only counted."""
        return len(self._told) >= _TOLD_MOST

    def add(self, where: str, sentence: str) -> None:
        """Say what would be right at ``where``."""
        if self.full:
            self._untold += 1
        else:
            self._told.append(f"{where}: {sentence}" if where else sentence)

    def end(self) -> None:
        """Raise :class:`AccountsFault` if there are any."""
        more = [f"and {self._untold} more"] if self._untold else []
        if self._told:
            raise AccountsFault(self._told + more)


def at(where: str, part: str | int) -> str:
    """Give the place of a field or an item within another place; any text may be the name of a field."""
    if isinstance(part, int):
        return f"{where}[{part}]"
    harmless = len(part) <= _SHOWN_MOST and part.isprintable() and not part.startswith("$")
    name = part if harmless else f"(a name of {len(part)} characters)"
    return f"{where}.{name}" if where else name


def shown(value: object) -> str:
    """Write what stands in the file, unless it may be a secret."""
    if isinstance(value, str):
        harmless = len(value) <= _SHOWN_MOST and not value.startswith("$")
        return repr(value) if harmless else f"a text of {len(value)} characters"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "nothing" if value is None else str(value).lower()


def suggestion(word: str, known: Iterable[str]) -> str:
    """Ask whether the nearest of ``known`` was meant; nothing when none is near."""
    return _suggestion(word, tuple(known)[:_KNOWN_MOST]) if len(word) <= _SHOWN_MOST else ""


@lru_cache(maxsize=256)
def _suggestion(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
