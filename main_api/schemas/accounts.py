"""What ``/auth/*`` takes and answers."""

from marshmallow import RAISE, Schema, fields, validate

# The longest address that mail can have (RFC 5321, 4.5.3.1.3), and what is worth hashing.
EMAIL_MOST = 254
PASSWORD_MOST = 1024


class Login(Schema):
    """Who wants a token."""

    class Meta:
        """Marshmallow's options."""

        unknown = RAISE

    email = fields.String(
        required=True, validate=validate.Length(1, EMAIL_MOST), metadata={"example": "ann@example.com"}
    )
    password = fields.String(required=True, validate=validate.Length(1, PASSWORD_MOST))


class User(Schema):
    """A user of the accounts file."""

    id = fields.String(required=True, metadata={"example": "u_5f0c"})
    email = fields.String(required=True, metadata={"example": "ann@example.com"})
    role = fields.String(required=True, metadata={"example": "reader"})


class LoggedIn(Schema):
    """A token, for ``Authorization: Bearer``."""

    token = fields.String(required=True)
    user = fields.Nested(User, required=True)
    expiresIn = fields.Integer(required=True, metadata={"description": "Seconds.", "example": 3600})


class LoggedOut(Schema):
    """The token is good for nothing from now on."""

    message = fields.String(required=True, metadata={"example": "Logged out successfully"})


class Me(Schema):
    """Who the credential says one is, and what one may do."""

    subject = fields.String(required=True, metadata={"example": "user:u_5f0c"})
    user = fields.Nested(User, required=True, allow_none=True)
    scopes = fields.List(fields.String(), required=True, metadata={"example": ["buckets:read"]})
    plan = fields.String(required=True, allow_none=True)
