"""Parameters: the queries of the list and of one parameter, and both kinds of items.

A name is given relative to ``/<PROJECT_NAME>/``, or whole; what is loaded is always relative.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, ValidationError, fields, missing, post_load

from auxiliary_service.schemas.items import Timestamp
from auxiliary_service.schemas.query import ListQuery, Query, flag

NAME_MOST = 1011
LEVELS_MOST = 15
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[a-zA-Z0-9_.-]+\Z")


@dataclass(frozen=True, slots=True)
class ParametersQuery:
    """Which parameters: those below ``prefix``, at most ``limit``, from ``next_token`` on."""

    prefix: str | None
    limit: int | None
    next_token: str | None
    decrypt: bool


@dataclass(frozen=True, slots=True)
class ParameterQuery:
    """Which parameter."""

    name: str
    decrypt: bool


class ParameterName(fields.Field[str]):
    """A name (or the first segments of one) below ``/<project>/``, loaded without that beginning."""

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__(**options)
        self._root = f"/{project}/"

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        judged = str(value).removeprefix("/")
        if not 1 <= len(judged) <= NAME_MOST:
            raise ValidationError(f"must be 1 to {NAME_MOST} characters")
        segments = judged.split("/")
        if len(segments) > LEVELS_MOST:
            raise ValidationError(f"must have at most {LEVELS_MOST} levels")
        if not all(_SEGMENT.match(segment) for segment in segments):
            raise ValidationError(
                "must be segments of a-z A-Z 0-9 _ . - joined by single slashes, none of them . or .."
            )
        if not value.startswith("/"):
            return judged
        relative = str(value).removeprefix(self._root)
        if not relative or relative == value:
            raise ValidationError(f"must be relative, or begin with {self._root}")
        return relative


class ParametersQuerySchema(ListQuery):
    """``prefix``, ``limit``, ``nextToken`` and ``decrypt``."""

    decrypt = flag()

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> ParametersQuery:
        return ParametersQuery(**data)


class ParameterQuerySchema(Query):
    """``name`` and ``decrypt``."""

    decrypt = flag()

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> ParameterQuery:
        return ParameterQuery(**data)


def parameters_query(project: str) -> Schema:
    """Make the schema of the list's query for one project."""
    return ParametersQuerySchema.from_dict({"prefix": ParameterName(project, load_default=None)})()


def parameter_query(project: str) -> Schema:
    """Make the schema of the single parameter's query for one project."""
    return ParameterQuerySchema.from_dict({"name": ParameterName(project, required=True)})()


class ParameterItem(Schema):
    """A parameter as the list shows it; ``redacted`` is there only where it is true."""

    name = fields.String()
    type = fields.String()
    value = fields.String()
    redacted = fields.Function(lambda parameter: parameter.redacted or missing)
    version = fields.Integer()
    last_modified_date = Timestamp(data_key="lastModifiedDate")


class ParameterSchema(ParameterItem):
    """A single parameter as it is shown."""

    data_type = fields.String(data_key="dataType")
