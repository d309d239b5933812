"""gunicorn's configuration: ``gunicorn -c main_api/gunicorn_conf.py main_api.wsgi:app``.

A wrong setting ends the start here, before the fork, with the list of all faults.
"""

import os
import sys
from typing import Any

from chassis.settings import SettingsError, load
from chassis.worker import gunicorn_settings
from main_api.settings import Settings

try:
    settings = load(Settings, os.environ)
except SettingsError as error:
    sys.exit("\n".join(["main-api cannot start:", *error.faults]))

# Before anything imports prometheus_client, which chooses its kind of values then.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(settings.metrics_path)
globals().update(gunicorn_settings(settings, "main_api.wsgi:app"))


def on_starting(server: Any) -> None:
    """Say, once for all workers, what is open to whom."""
    if settings.authentication == "none":
        server.log.warning(
            "AUTHENTICATION=none: whoever reaches port %d can list every bucket's name and read every "
            "parameter of the project that is no SecureString",
            settings.port,
        )
