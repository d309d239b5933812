"""gunicorn's configuration of :mod:`tests.faults.posting`."""

import os

from chassis.worker import configure
from main_api.settings import Settings

settings, configuration = configure(Settings, "tests.faults.posting:app", os.environ)
globals().update(configuration)
