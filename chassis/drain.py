"""Draining: say so by a file, wait until load balancers have noticed, and only then be stopped.

New connections are refused from the first moment of SIGTERM, so what must come before it is the
preStop hook's: ``python -m chassis.drain``. The workers look for the file (``/serving`` turns 503 for
the readiness probe); the next start removes it.
"""

import argparse
import importlib
import importlib.util
import logging
import logging.config
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from chassis import json_logs
from chassis.settings import ServiceSettings, SettingsError, load

SERVICES = ("main-api", "auxiliary-service")

log = logging.getLogger(__name__)


def draining(path: Path) -> bool:
    """Whether ``path``, the drain file, is there: one ``stat`` on tmpfs, made for every probe."""
    return path.exists()


def drain(path: Path, seconds: float, sleep: Callable[[float], object] = time.sleep) -> bool:
    """Create the drain file ``path`` and wait ``seconds``; whether it could be created.

    The wait takes place either way: load balancers need it as much when they cannot be told. A
    second call while the first still waits does the same again and changes nothing.
    """
    try:
        path.touch(mode=0o600)
        created = True
        log.info("draining for %g seconds", seconds)
    except OSError as error:
        created = False
        log.error("cannot create %s: %s", path, error.strerror)
    sleep(seconds)
    return created


def main(arguments: Sequence[str] | None = None, sleep: Callable[[float], object] = time.sleep) -> int:
    """Run the preStop hook in a service's environment; give the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m chassis.drain",
        description="Make the service answer its readiness probe with 503, and wait DRAIN_SECONDS. "
        "Reads the same environment as the service.",
    )
    parser.add_argument(
        "service",
        nargs="?",
        choices=SERVICES,
        help="default: the one that is installed here, if only one is",
    )
    service = parser.parse_args(arguments).service or _installed()
    if service is None:
        parser.error("more than one service is installed here, or none: name one of " + ", ".join(SERVICES))
    try:
        settings = load(_settings_class(service), os.environ)
    except SettingsError as error:
        sys.stderr.write("\n".join([f"{service} cannot drain:", *error.faults, ""]))
        return 1
    logging.config.dictConfig(
        json_logs.configuration(service, settings.app_env, settings.service_version, settings.log_level)
    )
    return 0 if drain(settings.drain_path, settings.drain_seconds, sleep) else 1


def _package(service: str) -> str:
    return service.replace("-", "_")


def _installed() -> str | None:
    found = [service for service in SERVICES if importlib.util.find_spec(_package(service))]
    return found[0] if len(found) == 1 else None


def _settings_class(service: str) -> type[ServiceSettings]:
    # By name: the chassis knows no service, but the port's default, which names the file, is the service's.
    settings: type[ServiceSettings] = importlib.import_module(f"{_package(service)}.settings").Settings
    return settings


if __name__ == "__main__":
    sys.exit(main())
