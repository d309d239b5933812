"""gunicorn's configuration: ``gunicorn -c auxiliary_service/gunicorn_conf.py auxiliary_service.wsgi:app``."""

import os
from typing import Any

from auxiliary_service.registration import leaving
from auxiliary_service.registration.stopping import leave_before_stopping
from auxiliary_service.settings import Settings
from chassis.worker import configure

settings, configuration = configure(Settings, "auxiliary_service.wsgi:app", os.environ)
globals().update(configuration)
ready_as_all: Any = configuration["when_ready"]


def when_ready(server: Any) -> None:
    """Do what both services do, and have the registries left before any stop."""
    ready_as_all(server)
    if settings.registers:
        leave_before_stopping(server, leaving(settings))
