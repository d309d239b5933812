"""gunicorn's configuration: ``gunicorn -c main_api/gunicorn_conf.py main_api.wsgi:app``."""

import os
import sys
from typing import Any

from chassis.worker import configure
from main_api.settings import Settings

settings, configuration = configure(Settings, "main_api.wsgi:app", os.environ)
globals().update(configuration)


def on_starting(server: Any) -> None:
    """End a start with files that cannot be used; say, once for all workers, what is open to whom.

    Here, and not above: at a SIGHUP all above is done again, and a file that has got a fault since must not
    end what is running.
    """
    if settings.authentication == "required":
        # Only here: else the server need not hold what reads tokens and passwords.
        from main_api import access_files  # noqa: PLC0415 - see above

        faults = access_files.faults(settings)
        if faults:
            sys.exit("\n".join([f"{settings.SERVICE} cannot start:", *faults]))
    else:
        server.log.warning(
            "AUTHENTICATION=none: whoever reaches port %d can list every bucket's name and read every "
            "parameter of the project that is no SecureString",
            settings.port,
        )
