"""gunicorn's configuration: ``gunicorn -c auxiliary_service/gunicorn_conf.py auxiliary_service.wsgi:app``.

A wrong setting ends the start here, before the fork, with the list of all faults.
"""

import os
import sys

from auxiliary_service.settings import Settings
from chassis.settings import SettingsError, load
from chassis.worker import gunicorn_settings

try:
    settings = load(Settings, os.environ)
except SettingsError as error:
    sys.exit("\n".join(["auxiliary-service cannot start:", *error.faults]))

# Before anything imports prometheus_client, which chooses its kind of values then.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(settings.metrics_path)
globals().update(gunicorn_settings(settings, "auxiliary_service.wsgi:app"))
