"""Query parameters: every fault of a request named at once."""

from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate
from werkzeug.datastructures import MultiDict

from auxiliary_service.errors import InvalidRequest
from chassis.errors import Detail

LIMIT_MOST = 1000
SHOWN_MOST = 200


class Query(Schema):
    """The query of an endpoint: what is not declared is refused."""

    class Meta:
        """Unknown parameters are faults."""

        unknown = RAISE

    error_messages = {"unknown": "unknown query parameter"}  # noqa: RUF012 - as marshmallow declares it


class Limit(fields.Field[int]):
    """A number of items from 1 to 1000, in plain digits."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        # int() alone also takes signs, spaces, underscores and the digits of every script.
        plain = value.isascii() and value.isdigit() and len(value) <= len(str(LIMIT_MOST))
        if not plain or not 1 <= int(value) <= LIMIT_MOST:
            raise ValidationError(f"must be a whole number from 1 to {LIMIT_MOST}")
        return int(value)


def flag() -> fields.Boolean:
    """Declare a parameter that is ``true`` or ``false`` (default)."""
    return fields.Boolean(
        truthy={"true"},
        falsy={"false"},
        load_default=False,
        error_messages={"invalid": "must be true or false"},
    )


class ListQuery(Query):
    """What both lists take."""

    limit = Limit(load_default=None)
    next_token = fields.String(
        data_key="nextToken",
        load_default=None,
        validate=validate.Length(1, error="must be the nextToken of an answer"),
    )


def load(schema: Schema, args: MultiDict[str, str]) -> Any:
    """Load ``args`` with ``schema``; unknown, repeated and bad ones are one :class:`InvalidRequest`."""
    faults: dict[str, Any] = {}
    loaded = None
    try:
        loaded = schema.load(args.to_dict())
    except ValidationError as error:
        faults = error.normalized_messages()  # type: ignore[no-untyped-call]  # marshmallow's own gap
    for name, values in args.lists():
        if len(values) > 1:
            faults[name] = ["given more than once"]
    if faults:
        raise InvalidRequest(
            details=[fault(name, str(texts[0]), args.get(name)) for name, texts in faults.items()]
        )
    return loaded


def fault(field: str, message: str, value: str | None) -> Detail:
    """Describe one fault; of a long value only the beginning is shown."""
    return {"field": field, "message": message, "value": value if value is None else value[:SHOWN_MOST]}
