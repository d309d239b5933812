"""What both services do in the same way, hung on a Flask app by :func:`chassis.install.install`.

A closed list of rooms, one hook each. This module and :mod:`chassis.errors` load no Flask, so that
gunicorn's configuration and the policies stay light.
"""

from datetime import UTC, datetime

VERSION = "1.0.0"


def timestamp(moment: datetime | None = None) -> str:
    """Write a moment (default: now) the one way both services do: UTC, ISO 8601, milliseconds, ``Z``."""
    moment = datetime.now(UTC) if moment is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
