"""Buckets: the list's query, and the items of its answer."""

from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, fields, post_load, validate

from auxiliary_service.schemas.items import Timestamp
from auxiliary_service.schemas.query import ListQuery


@dataclass(frozen=True, slots=True)
class BucketsQuery:
    """Which buckets: those whose name begins with ``prefix``, at most ``limit``, from ``next_token`` on."""

    prefix: str | None
    limit: int | None
    next_token: str | None


class BucketsQuerySchema(ListQuery):
    """``prefix``, ``limit`` and ``nextToken``."""

    prefix = fields.String(
        load_default=None,
        validate=validate.Regexp(
            r"^[a-zA-Z0-9_.-]{1,255}\Z", error="must be 1 to 255 of a-z A-Z 0-9 _ . - as bucket names are"
        ),
    )

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> BucketsQuery:
        return BucketsQuery(**data)


class BucketSchema(Schema):
    """A bucket as it is shown."""

    name = fields.String()
    creation_date = Timestamp(data_key="creationDate")
