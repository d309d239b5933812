"""A stored answer, and its form as bytes."""

import json
import math
from dataclasses import dataclass

from main_api.exchange import Headers

# Raised whenever the form changes: an entry of another version is a miss.
VERSION = 1
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One answer as it may be given again.

    ``born`` is the moment of the store's clock, in seconds, at which its age was zero; ``lifetime`` how
    long it is fresh from then on, ``stale_if_error`` how much longer it may stand in for a failure.
    ``validate_always``: never without asking (``no-cache``); ``never_stale``: nothing once it is stale
    (``must-revalidate``).
    """

    status: int
    headers: Headers
    body: bytes
    born: float
    lifetime: float
    stale_if_error: float = 0.0
    validate_always: bool = False
    never_stale: bool = False

    def header(self, name: str) -> str | None:
        """Give the first header of that name, in any case of letters."""
        name = name.lower()
        return next((value for key, value in self.headers if key.lower() == name), None)


def pack(entry: Entry) -> bytes:
    """Write ``entry`` as bytes: the length of the facts, the facts as JSON, the body as it is."""
    facts = json.dumps(
        [
            VERSION,
            entry.status,
            entry.headers,
            entry.born,
            entry.lifetime,
            entry.stale_if_error,
            entry.validate_always,
            entry.never_stale,
            len(entry.body),
        ],
        separators=(",", ":"),
    ).encode()
    return len(facts).to_bytes(_LENGTH_BYTES, "big") + facts + entry.body


def unpack(data: bytes) -> Entry | None:
    """Read what :func:`pack` wrote; None for anything else."""
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    try:
        facts = json.loads(data[_LENGTH_BYTES:end])
        version, status, headers, born, lifetime, stale, always, never, length = facts
        # NaN compares with nothing, so that an entry with it would be fresh for ever.
        if (
            version != VERSION
            or len(data) - end != length
            or not all(map(math.isfinite, (born, lifetime, stale)))
        ):
            return None
        return Entry(
            status=int(status),
            headers=tuple((str(name), str(value)) for name, value in headers),
            body=data[end:],
            born=float(born),
            lifetime=float(lifetime),
            stale_if_error=float(stale),
            validate_always=bool(always),
            never_stale=bool(never),
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
