"""The real settings with shorter times, given as DEMO_<NAME>, so that the tests are quick.

And with exactly GUNICORN_THREADS threads: what holds one shows sooner.
"""

import os
from typing import ClassVar

from chassis.settings import ServiceSettings, load
from chassis.worker import Worker, gunicorn_settings


class Settings(ServiceSettings):
    SERVICE: ClassVar[str] = "demo"
    PROBES: ClassVar[tuple[str, ...]] = ("/alive", "/alive-slowly")


times = {name[5:]: float(value) for name, value in os.environ.items() if name.startswith("DEMO_")}
settings = load(Settings, os.environ)
globals().update(gunicorn_settings(settings, "demo:wsgi"), threads=settings.gunicorn_threads)
worker_class = type("DemoWorker", (Worker,), times)
