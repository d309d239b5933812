"""The fields of an accounts file: functions that read a text, and sentences that say how to write it."""

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, ValidationError, fields

from main_api.accounts.faults import shown, suggestion
from main_api.exchange import Quota
from main_api.scopes import PARAMETERS_READ, SCOPES, valid
from main_api.setting_fields import window

_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
IDENTIFIER = "1 to 64 of A-Z a-z 0-9 _ and - needed"

EMAIL_MOST = 254
_EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,189}\Z")
_OWNER_MOST = 128

# What one login may cost. A hash that takes a gigabyte and a minute would be a way to stop the service.
_MEMORY_MOST = 256 * 1024  # KiB
_TIME_MOST = 10
_THREADS_MOST = 16
_ARGON2ID = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,6}),t=([1-9][0-9]?),p=([1-9][0-9]?)"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})\Z"
)
_ARGON2ID_NEEDED = (
    f"a hash by `main-api accounts add` needed: argon2id of at most {_MEMORY_MOST // 1024} MiB, "
    f"t={_TIME_MOST} and p={_THREADS_MOST}"
)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)
MOMENT = "a date such as 2027-01-01 (it begins at 00:00 UTC) or 2027-01-01T12:00:00Z needed"

_QUOTA = re.compile(r"([1-9][0-9]{0,8}) per (day|month)\Z")
_LIMIT = "a limit such as 600 per minute needed, of at most a month"
_LIMIT_MOST = 64
_SCOPE = f"one of {', '.join(SCOPES)} or {PARAMETERS_READ}:/<path>/** needed"


def folded(email: str) -> str:
    """Give what two spellings of one address have in common: case, and how Unicode composes it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", email).casefold())


def identifier(text: str) -> str:
    """Read the name of something. All readers here raise :class:`ValueError`, which may carry a hint."""
    return _matched(_IDENTIFIER, text)[0]


def email(text: str) -> str:
    """Read an address: something on both sides of one @; whether there is a mailbox is not our business."""
    return _printable(_matched(_EMAIL, text)[0], EMAIL_MOST)


def owner(text: str) -> str:
    """Read who a key is for."""
    return _printable(text, _OWNER_MOST)


def argon2id(text: str) -> str:
    """Read a password's hash (the PHC string format) whose costs are bearable."""
    memory, time, threads, salt, tag = _matched(_ARGON2ID, text).groups()
    least = 8 * int(threads)
    if not least <= int(memory) <= _MEMORY_MOST or int(time) > _TIME_MOST or int(threads) > _THREADS_MOST:
        raise ValueError
    if 1 in (len(salt) % 4, len(tag) % 4):
        raise ValueError  # no bytes have such a base64
    return text


def sha256(text: str) -> str:
    """Read a digest of 64 hexadecimal digits; given in lower case."""
    return _matched(_SHA256, text)[0].lower()


def moment(text: str) -> float:
    """Read a date or a time with its zone; give seconds of the wall clock.

    A date is the moment at which it begins, 00:00 UTC: a key that expires on it is refused on that day.
    """
    if _DATE.match(text):
        text += "T00:00:00Z"
    try:
        return datetime.fromisoformat(_matched(_MOMENT, text)[0].upper()).timestamp()
    except OverflowError:
        raise ValueError from None


def written(seconds: float) -> str:
    """Write a moment of the wall clock, so that :func:`moment` reads it; whole milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def quota(text: str) -> Quota:
    """Read ``10000 per day`` or ``… per month``."""
    amount, period = _matched(_QUOTA, text).groups()
    return Quota(int(amount), period)


def scope(text: str) -> str:
    """Read a scope that there is."""
    if not valid(text):
        raise ValueError(suggestion(text, SCOPES))
    return text


def _limit(text: str) -> Any:
    return window(_printable(text, _LIMIT_MOST))


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.match(text)
    if match is None:
        raise ValueError
    return match


def _printable(text: str, most: int) -> str:
    if not 1 <= len(text) <= most or not text.isprintable() or text.isspace():
        raise ValueError
    return text


class Read(fields.Field[Any]):
    """What ``read`` makes of a text; ``needed`` says which texts it takes. A ``secret`` is never repeated."""

    def __init__(
        self, read: Callable[[str], Any], needed: str, *, secret: bool = False, **options: Any
    ) -> None:
        super().__init__(
            error_messages={"required": f"missing: {needed}", "null": f"empty: {needed}"}, **options
        )
        self._read = read
        self._needed = needed
        self._secret = secret

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        hint = ""
        if isinstance(value, str):
            try:
                return self._read(value)
            except ValueError as error:
                hint = str(error) if str(error).startswith(";") else ""
        raise ValidationError(self._needed + ("" if self._secret else f", got {shown(value)}{hint}"))


def _optional(read: Callable[[str], Any], needed: str, default: Any = None) -> Read:
    return Read(read, needed, allow_none=True, load_default=default)


def _yes_or_no() -> fields.Boolean:
    # Not the library's "on", "y" and 1: YAML 1.2 has two words for it.
    only = "true or false needed"
    return fields.Boolean(
        truthy={True}, falsy={False}, load_default=False, error_messages={"invalid": only, "null": only}
    )


def scopes() -> fields.List[str]:
    """Make the field of a list of scopes."""
    needed = f"a list of scopes needed, such as [{SCOPES[0]}]"
    return fields.List(
        Read(scope, _SCOPE),
        required=True,
        error_messages={"invalid": needed, "null": f"empty: {needed}", "required": f"missing: {needed}"},
    )


class UserFields(Schema):
    """One of ``users``."""

    id = Read(identifier, IDENTIFIER, required=True)
    email = Read(email, "an address such as ann@example.com needed", required=True)
    role = Read(identifier, "the name of one of `roles` needed", required=True)
    password = Read(argon2id, _ARGON2ID_NEEDED, secret=True, required=True)
    disabled = _yes_or_no()
    tokens_after = _optional(moment, MOMENT)


class KeyFields(Schema):
    """One of ``keys``."""

    id = Read(identifier, IDENTIFIER, required=True)
    owner = Read(owner, f"1 to {_OWNER_MOST} printable characters needed", required=True)
    digest = Read(
        sha256, "the SHA-256 of the key in 64 hexadecimal digits needed", secret=True, required=True
    )
    scopes = scopes()
    plan = _optional(identifier, "the name of one of `plans` needed")
    expires = _optional(moment, MOMENT)
    disabled = _yes_or_no()


class PlanFields(Schema):
    """One of ``plans``."""

    rate = _optional(_limit, _LIMIT)
    burst = _optional(_limit, _LIMIT)
    quota = _optional(quota, "a quota such as 10000 per day or 100000 per month needed")
