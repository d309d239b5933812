"""Logs: one JSON object a line on standard error, each with the request it belongs to.

Own code rather than a formatter library: it stands on the way of every request, and is little more
than one :func:`json.dumps`.
"""

import json
import logging
import logging.config
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from chassis import timestamp

# What every line of this request carries (requestId, traceId); set by the rooms that know it.
request_context: ContextVar[Mapping[str, str]] = ContextVar("request_context", default=MappingProxyType({}))


class JsonFormatter(logging.Formatter):
    """Write a record as one line of JSON.

    ``extra={"fields": {...}}`` adds fields to the line; everything else of ``extra`` is left out, so
    that nothing reaches the log that was not put there by name.
    """

    def __init__(self, service: str, environment: str, version: str) -> None:
        super().__init__()
        self._constant = {"service": service, "version": version, "environment": environment}

    def format(self, record: logging.LogRecord) -> str:
        """Write the line; a value that JSON cannot hold is written as its ``str``."""
        line: dict[str, Any] = {
            "timestamp": timestamp(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            **self._constant,
            **request_context.get(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return json.dumps(line, default=str, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):  # NaN, a key that is no text, a circle
            return json.dumps({name: str(value) for name, value in line.items()}, ensure_ascii=False)


def configuration(service: str, environment: str, version: str, level: str) -> dict[str, Any]:
    """Give the ``logging.config`` dictionary; gunicorn takes the same as ``logconfig_dict``."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {"()": JsonFormatter, "service": service, "environment": environment, "version": version}
        },
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}
        },
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        # gunicorn's own loggers come with handlers of their own: theirs are replaced by the root's.
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
            # Below the level given here these tell secrets and query strings, whatever LOG_LEVEL says.
            "botocore": {"level": "INFO"},
            "boto3": {"level": "INFO"},
            "urllib3": {"level": "ERROR"},
            "werkzeug": {"level": "WARNING"},
        },
    }
