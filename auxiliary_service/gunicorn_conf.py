"""gunicorn's configuration: ``gunicorn -c auxiliary_service/gunicorn_conf.py auxiliary_service.wsgi:app``."""

import os

from auxiliary_service.settings import Settings
from chassis.worker import configure

settings, configuration = configure(Settings, "auxiliary_service.wsgi:app", os.environ)
globals().update(configuration)
