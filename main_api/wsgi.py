"""What gunicorn loads: ``gunicorn -c main_api/gunicorn_conf.py main_api.wsgi:app``."""

import os

from chassis.settings import load
from main_api.app import create_app
from main_api.settings import Settings

if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    raise RuntimeError("start with: gunicorn -c main_api/gunicorn_conf.py main_api.wsgi:app")

app = create_app(load(Settings, os.environ))
for each in app.extensions["background"]:
    each.start()
