"""What the store asks of Redis, in a dictionary."""

import re
from collections.abc import Iterable

from redis.exceptions import ResponseError

PAGE = 3


def _glob(pattern: bytes) -> re.Pattern[bytes]:
    """Read a pattern as Redis does: ``*``, ``?``, and a backslash before what is meant as it is."""
    parts = re.findall(rb"\\(.)|([*?\[\]])|([^\\*?\[\]]+)", pattern, re.DOTALL)
    special = {b"*": b".*", b"?": b"."}
    return re.compile(
        b"".join(special[glob] if glob else re.escape(a + b) for a, glob, b in parts), re.DOTALL
    )


class FakeRedis:
    """Values and expiries by name; ``error``, when set, is what every command meets."""

    connection_pool = None

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | list[bytes]] = {}
        self.expiries: dict[bytes, int] = {}
        self.error: Exception | None = None
        self.commands: list[str] = []
        self.largest_read = 0

    def _command(self, name: str) -> None:
        self.commands.append(name)
        if self.error is not None:
            raise self.error

    def getrange(self, name: bytes, start: int, end: int) -> bytes:
        self._command("GETRANGE")
        value = self.values.get(name, b"")
        if not isinstance(value, bytes):
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        given = value[start : end + 1]
        self.largest_read = max(self.largest_read, len(given))
        return given

    def set(self, name: bytes, value: bytes, ex: int) -> bool:
        assert isinstance(ex, int)
        assert 1 <= ex < 2**40
        self._command("SET")
        self.values[name] = value
        self.expiries[name] = ex
        return True

    def unlink(self, *names: bytes) -> int:
        self._command("UNLINK")
        return sum(self.values.pop(name, None) is not None for name in names)

    def scan(self, cursor: int, match: bytes, count: int) -> tuple[int, Iterable[bytes]]:
        """Give some names a time, as they were when it began; the first of a page twice, as Redis may."""
        self._command("SCAN")
        assert count > 1
        if cursor == 0:
            self._listed = sorted(self.values)
        page = [name for name in self._listed[cursor : cursor + PAGE] if _glob(match).fullmatch(name)]
        after = cursor + PAGE
        return (after if after < len(self._listed) else 0), page[:1] + page
