"""What gunicorn serves: ``auxiliary_service.wsgi:app``, made from the environment, after the fork."""

import os
from collections.abc import Mapping

from flask import Flask

from auxiliary_service.app import create_app
from auxiliary_service.settings import Settings
from chassis.settings import load

START = "gunicorn -c auxiliary_service/gunicorn_conf.py auxiliary_service.wsgi:app"


def make(environ: Mapping[str, str]) -> Flask:
    """Make the application; raises :class:`~chassis.settings.SettingsError` with every fault."""
    if not environ.get("PROMETHEUS_MULTIPROC_DIR"):
        raise RuntimeError(f"PROMETHEUS_MULTIPROC_DIR is not set: start with `{START}`, which sets it up")
    return create_app(load(Settings, environ))


app = make(os.environ)
for each in app.extensions["background"]:
    each.start()
