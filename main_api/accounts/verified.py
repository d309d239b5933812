"""What is known of a caller once its token was verified."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verified:
    """What a good token says.

    ``subject`` is unique over all kinds of credentials: ``user:<id>`` for tokens of our own,
    ``<issuer>|<sub>`` for those of others. ``scopes`` is None where the user's role decides, which is looked
    up at each request. ``issued`` and ``expires`` are moments of the wall clock, in seconds. The token is
    taken until ``expires``, which has the leeway in it: a revocation has to last until then.
    ``revocation_id`` is the SHA-256 of what was signed, header and payload, in hexadecimal: a signature may
    have a second form, and ``jti`` may be missing. ``user_id`` and ``role`` are None for tokens of others.
    """

    subject: str
    scopes: frozenset[str] | None
    issued: float
    expires: float
    revocation_id: str
    user_id: str | None = None
    role: str | None = None
