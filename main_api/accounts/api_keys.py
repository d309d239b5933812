"""API keys: random texts that are shown once, when they are made; only their digests are stored."""

import hashlib
import re
import secrets
from dataclasses import dataclass, field

# Tells people and scanners of repositories what they have found.
_PREFIX = "gwk_"
_BYTES = 32
_FORM = re.compile(_PREFIX + r"[A-Za-z0-9_-]{43}\Z")
_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that nobody has yet: ``text`` is the secret, ``digest`` what is stored of it."""

    id: str
    text: str = field(repr=False)
    digest: str = field(repr=False)


def new_key() -> NewKey:
    """Make a key of 256 random bits."""
    text = _PREFIX + secrets.token_urlsafe(_BYTES)
    return NewKey(f"k_{secrets.token_hex(_ID_BYTES)}", text, _sha256(text))


def digest(text: str) -> str | None:
    """Give the SHA-256 of a key in lower-case hexadecimal digits; None for what has not the form of one.

    Without salt and cost: there is nothing to guess in 256 random bits, and it is done for every request.
    """
    return _sha256(text) if _FORM.match(text) else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
