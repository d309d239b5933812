"""gunicorn's configuration: ``gunicorn -c main_api/gunicorn_conf.py main_api.wsgi:app``."""

import os
import sys
from typing import Any

from chassis.worker import configure
from main_api import access_files
from main_api.settings import Settings

settings, configuration = configure(Settings, "main_api.wsgi:app", os.environ)
globals().update(configuration)
faults = access_files.faults(settings)
if faults:
    sys.exit("\n".join([f"{settings.SERVICE} cannot start:", *faults]))


def on_starting(server: Any) -> None:
    """Say, once for all workers, what is open to whom."""
    if settings.authentication == "none":
        server.log.warning(
            "AUTHENTICATION=none: whoever reaches port %d can list every bucket's name and read every "
            "parameter of the project that is no SecureString",
            settings.port,
        )
