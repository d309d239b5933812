"""gunicorn's settings and hooks, made from a service's settings."""

import os
import stat
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from chassis.json_logs import configuration
from chassis.settings import RUNTIME_DIR, ServiceSettings, SettingsError, load
from chassis.worker.reading import HEADER_FIELD_BYTES, HEADER_FIELDS, REQUEST_LINE_BYTES

T = TypeVar("T", bound=ServiceSettings)


def configure(
    settings_class: type[T], app: str, environ: MutableMapping[str, str]
) -> tuple[T, dict[str, object]]:
    """Load a service's settings and give them with gunicorn's configuration; what a ``gunicorn_conf`` does.

    A wrong setting ends the process here, before the fork, with the list of all faults. Sets
    ``PROMETHEUS_MULTIPROC_DIR`` in ``environ``.
    """
    try:
        settings = load(settings_class, environ)
    except SettingsError as error:
        sys.exit("\n".join([f"{settings_class.SERVICE} cannot start:", *error.faults]))
    # Before anything imports prometheus_client, which chooses its kind of values then.
    environ["PROMETHEUS_MULTIPROC_DIR"] = str(settings.metrics_path)
    return settings, gunicorn_settings(settings, app)


def gunicorn_settings(settings: ServiceSettings, app: str) -> dict[str, object]:
    """Give gunicorn's whole configuration for the WSGI application ``app`` (``module:name``).

    ``PROMETHEUS_MULTIPROC_DIR`` must be ``settings.metrics_path`` before anything imports
    prometheus_client.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "wsgi_app": app,
        "proc_name": settings.SERVICE,
        # One worker serves them all; a request knows its own by SERVER_PORT, which no client can set.
        "bind": [f"{host}:{port}" for port in settings.ports],
        "workers": settings.web_concurrency,
        "threads": settings.server_threads,
        "worker_class": "chassis.worker.Worker",
        # Small, it loses at SIGTERM what is queued beyond it.
        "worker_connections": 1000,
        # Longer than the 60 s of a load balancer, which else sends on a connection that we just closed.
        "keepalive": 75,
        # The heartbeat of the main thread, which waits for nobody; no limit for a request.
        "timeout": 30,
        "graceful_timeout": max(1, settings.drain_seconds),
        "worker_tmp_dir": str(RUNTIME_DIR),
        "control_socket_disable": True,
        "http_protocols": "h1",
        # The C parser refuses other requests than this one, for which the tests speak.
        "http_parser": "python",
        "limit_request_line": REQUEST_LINE_BYTES,
        "limit_request_fields": HEADER_FIELDS,
        "limit_request_field_size": HEADER_FIELD_BYTES,
        "header_map": "drop",
        # By default any process on this host may set SCRIPT_NAME and PATH_INFO by a header.
        "forwarder_headers": "",
        "accesslog": None,
        "loglevel": settings.log_level,
        "logconfig_dict": configuration(
            settings.SERVICE, settings.app_env, settings.service_version, settings.log_level
        ),
        **_hooks(settings),
    }


def _hooks(settings: ServiceSettings) -> dict[str, object]:
    folder = settings.metrics_path

    # Not on_starting, which runs before the port is bound: a second start by mistake would wipe out the
    # figures of the process that has the port.
    def when_ready(server: Any) -> None:
        if server.master_pid:  # made by USR2: the old master's workers still use all of this
            return
        try:
            settings.drain_path.unlink(missing_ok=True)
            _empty_folder(folder)
        except OSError as error:
            # gunicorn ends with the text of a RuntimeError, and with the traceback of anything else.
            raise RuntimeError(f"{error.filename}: {error.strerror}") from error

    def post_fork(server: Any, worker: Any) -> None:
        worker.probes = tuple(
            f"{verb} {path} ".encode() for verb in ("GET", "HEAD") for path in settings.PROBES
        )
        _pid_file(folder, worker.pid).write_text(f"{worker.pid}\n")

    def child_exit(server: Any, worker: Any) -> None:
        # Not at the top: it reads PROMETHEUS_MULTIPROC_DIR when it is imported.
        from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - see above

        with suppress(OSError):  # the arbiter would die of it
            mark_process_dead(worker.pid, str(folder))  # type: ignore[no-untyped-call]  # has no types
            _pid_file(folder, worker.pid).unlink(missing_ok=True)

    def on_exit(server: Any) -> None:
        if server.master_pid or server.reexec_pid:  # another master uses the folder
            return
        with suppress(OSError, RuntimeError):
            _empty_folder(folder)
            folder.rmdir()

    return {"when_ready": when_ready, "post_fork": post_fork, "child_exit": child_exit, "on_exit": on_exit}


def _pid_file(folder: Path, pid: int) -> Path:
    return folder / f"worker_{pid}.pid"


def _empty_folder(folder: Path) -> None:
    """Make ``folder`` a directory of our own without metrics in it.

    Its name in a directory that all may write to is no secret: what somebody else put there is not used.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise RuntimeError(
            f"{folder} is not a directory of our own: remove it, it is for this port's metrics"
        )
    folder.chmod(0o700)
    for file in folder.iterdir():
        if file.suffix in (".db", ".pid") and file.lstat().st_uid == os.geteuid():
            file.unlink()
