"""The query strings of the data routes: unknown parameters are refused by name, repeated ones by the door."""

import re

from marshmallow import RAISE, Schema, ValidationError, fields, validate

NAME_MOST = 1011
LEVELS_MOST = 15
_NAME = re.compile(r"[A-Za-z0-9_.\-/]+\Z")


def parameter_name(name: str) -> None:
    """Judge a parameter's name, already decoded once, by the rules of SSM.

    One leading slash allowed, then 1 to 1011 characters of ``a-zA-Z0-9_.-/``, at most 15 levels, none
    of them empty, ``.`` or ``..``. Raises :class:`marshmallow.ValidationError`.
    """
    bare = name.removeprefix("/")
    if not bare:
        raise ValidationError("Must not be empty")
    if len(bare) > NAME_MOST:
        raise ValidationError(f"Must have at most {NAME_MOST} characters")
    if not _NAME.match(bare):
        raise ValidationError("May only have a-z A-Z 0-9 _ . - and / (encode it once)")
    levels = bare.split("/")
    if len(levels) > LEVELS_MOST:
        raise ValidationError(f"Must have at most {LEVELS_MOST} levels")
    if any(level in ("", ".", "..") for level in levels):
        raise ValidationError("Must not have an empty, . or .. level")


class Query(Schema):
    """A query string: what it does not declare is refused."""

    class Meta:
        """Marshmallow's options."""

        unknown = RAISE

    error_messages = {"unknown": "Unknown parameter"}  # noqa: RUF012 - marshmallow's own way


class Page(Query):
    """What the lists share."""

    limit = fields.String(
        validate=validate.Regexp(r"^([1-9][0-9]{0,2}|1000)\Z", error="Must be a whole number from 1 to 1000"),
        metadata={
            "description": "At most so many items; fewer beside a nextToken are possible.",
            "example": "100",
        },
    )
    nextToken = fields.String(
        validate=validate.Regexp(r"^[A-Za-z0-9_.~=\-]{1,4096}\Z", error="Is not a token of this API"),
        metadata={"description": "Where the page before ended; opaque."},
    )


DECRYPT = fields.String(
    validate=validate.OneOf(("true", "false"), error="Must be true or false"),
    metadata={"description": "true gives SecureStrings in plain text; takes the scope parameters:decrypt."},
)


class BucketsQuery(Page):
    """``/api/s3/buckets``."""

    prefix = fields.String(
        validate=validate.Regexp(
            r"^[A-Za-z0-9._\-]{1,255}\Z", error="Must be the beginning of a bucket's name"
        ),
        metadata={"description": "Only buckets whose names begin so."},
    )


class ParametersQuery(Page):
    """``/api/parameters/list``."""

    prefix = fields.String(
        validate=parameter_name,
        metadata={"description": "Only parameters below this path of whole segments.", "example": "database"},
    )
    decrypt = DECRYPT


class ParameterQuery(Query):
    """``/api/parameters``."""

    name = fields.String(
        required=True,
        validate=parameter_name,
        error_messages={"required": "Missing"},
        metadata={
            "description": "Name relative to the project, or in full; / may be written %2F.",
            "example": "database/host",
        },
    )
    decrypt = DECRYPT
