"""The bodies that the gateway answers, for its documentation; the tests hold real answers to them."""

from marshmallow import Schema, fields

TIME = {"description": "UTC, ISO 8601, milliseconds", "example": "2023-12-01T12:00:00.000Z"}


class Versions(Schema):
    """The versions of both services; ``unknown`` until the auxiliary has answered once."""

    main_api = fields.String(required=True, data_key="main-api", metadata={"example": "1.0.0"})
    auxiliary_service = fields.String(
        required=True, data_key="auxiliary-service", metadata={"example": "1.0.0"}
    )


class Bucket(Schema):
    """A bucket of the account."""

    name = fields.String(required=True, metadata={"example": "demo-assets"})
    creationDate = fields.String(required=True, metadata=TIME)


class Parameter(Schema):
    """A parameter of the project."""

    name = fields.String(required=True, metadata={"example": "/myproject/database/host"})
    type = fields.String(required=True, metadata={"enum": ["String", "StringList", "SecureString"]})
    value = fields.String(
        required=True, allow_none=True, metadata={"description": "null for a SecureString that is redacted"}
    )
    version = fields.Integer(required=True)
    lastModifiedDate = fields.String(required=True, metadata=TIME)
    redacted = fields.Boolean(metadata={"description": "true: the value is a secret and was not decrypted"})


class OneParameter(Parameter):
    """A parameter that was asked for by name."""

    dataType = fields.String(required=True, metadata={"example": "text"})


class _Answer(Schema):
    success = fields.Boolean(required=True, metadata={"enum": [True]})
    timestamp = fields.String(required=True, metadata=TIME)


class _List(_Answer):
    count = fields.Integer(required=True)
    nextToken = fields.String(metadata={"description": "Ask with it for the next page."})


class BucketList(_List):
    """The auxiliary service's list of buckets."""

    data = fields.List(fields.Nested(Bucket), required=True)


class ParameterList(_List):
    """The auxiliary service's list of parameters."""

    data = fields.List(fields.Nested(Parameter), required=True)


class ParameterAnswer(_Answer):
    """The auxiliary service's one parameter."""

    data = fields.Nested(OneParameter, required=True)


class _Envelope(_Answer):
    versions = fields.Nested(Versions, required=True)


class BucketsEnvelope(_Envelope):
    """``/api/s3/buckets``."""

    data = fields.Nested(BucketList, required=True)


class ParametersEnvelope(_Envelope):
    """``/api/parameters/list``."""

    data = fields.Nested(ParameterList, required=True)


class ParameterEnvelope(_Envelope):
    """``/api/parameters``."""

    data = fields.Nested(ParameterAnswer, required=True)


class Ready(Schema):
    """The pair is ready."""

    status = fields.String(required=True, metadata={"enum": ["ready"]})
    service = fields.String(required=True, metadata={"enum": ["main-api"]})
    versions = fields.Nested(Versions, required=True)
    timestamp = fields.String(required=True, metadata=TIME)


class NotReady(Schema):
    """The auxiliary service does not answer."""

    status = fields.String(required=True, metadata={"enum": ["not ready"]})
    error = fields.String(required=True, metadata={"example": "Auxiliary service not available"})
    service = fields.String(required=True, metadata={"enum": ["main-api"]})
    versions = fields.Nested(Versions, required=True)
    timestamp = fields.String(required=True, metadata=TIME)


class FieldFault(Schema):
    """One fault of one field."""

    field = fields.String(required=True)
    message = fields.String(required=True)
    value = fields.String(required=True, allow_none=True)


class Error(Schema):
    """The one error body."""

    success = fields.Boolean(required=True, metadata={"enum": [False]})
    error = fields.String(required=True, metadata={"description": "One sentence."})
    code = fields.String(required=True, metadata={"description": "Stable; decide by this."})
    requestId = fields.String(required=True)
    versions = fields.Nested(Versions, required=True)
    timestamp = fields.String(required=True, metadata=TIME)
    details = fields.List(fields.Nested(FieldFault))
    retryAfter = fields.Integer(metadata={"description": "Seconds; the header Retry-After says the same."})


class Problem(Schema):
    """The same facts by RFC 9457, for ``Accept: application/problem+json``."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    code = fields.String(required=True)
    requestId = fields.String(required=True)
    versions = fields.Nested(Versions, required=True)
    timestamp = fields.String(required=True, metadata=TIME)
    details = fields.List(fields.Nested(FieldFault))
    retryAfter = fields.Integer()
