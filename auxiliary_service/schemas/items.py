"""Fields of items as they are shown."""

from datetime import datetime
from typing import Any

from marshmallow import fields

from chassis import timestamp


class Timestamp(fields.Field[datetime]):
    """A moment as both services write it: UTC, ISO 8601, milliseconds, ``Z``."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else timestamp(value)
