"""The three processes of `make run`, each alone in the tests' hands, on free ports of the loopback."""

import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from dev.run import environments

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
LIVENESS = {"auxiliary": "/health", "gateway": "/api/health", "posting": "/api/health"}
COMMANDS = {
    "aws": ["-m", "dev.local_aws", "--port", "{port}"],
    "auxiliary": ["-m", "gunicorn", "-c", "auxiliary_service/gunicorn_conf.py", "auxiliary_service.wsgi:app"],
    "gateway": ["-m", "gunicorn", "-c", "main_api/gunicorn_conf.py", "main_api.wsgi:app"],
    # The gateway with a route that is not idempotent, for the tests of faults.
    "posting": ["-m", "gunicorn", "-c", "tests/faults/posting_conf.py", "tests.faults.posting:app"],
}


class Answer(NamedTuple):
    """What came back over the wire."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


# Below the ports that the kernel gives to outgoing connections: one of those could take the port between
# the look and the start. Each of pytest's processes counts through a thousand of its own.
_FIRST_PORT = 20_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_steps = itertools.count(random.randrange(1_000))


def free_port() -> int:
    """Find a port that nobody listens on and that was not given lately."""
    while True:
        port = _FIRST_PORT + next(_steps) % 1_000
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) != 0:
                return port


def quick(ask: Callable[[], Answer], seconds: float) -> Answer:
    """Give an answer that took ``seconds`` at most, the quickest of three otherwise.

    A machine may be busy for a moment; what is late by a fault is late each time.
    """
    answers: list[Answer] = []
    while len(answers) < 3 and not (answers and answers[-1].seconds <= seconds):
        answers.append(ask())
    return min(answers, key=lambda each: each.seconds)


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Wait for ``condition`` to be true and give its value; fail, naming ``what``, when it takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s")


def request(port: int, target: str, method: str = "GET", timeout: float = 30.0, **headers: str) -> Answer:
    """Ask once over a connection of its own; header names are written with ``_`` for ``-``."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    begun = time.monotonic()
    try:
        connection.request(
            method, target, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        body = response.read()
        return Answer(response.status, response.headers, body, time.monotonic() - begun)
    finally:
        connection.close()


class Server:
    """One process: started, stopped by its own id, its log lines in a file."""

    def __init__(self, name: str, port: int, environment: Mapping[str, str]) -> None:
        self.name = name
        self.port = port
        self._environment = dict(environment)
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the server
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until the port is open."""
        arguments = [part.format(port=self.port) for part in COMMANDS[self.name]]
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        until(self._open, f"{self.name} listens")
        # The arbiter opens the port before its worker is there to answer.
        if self.name != "aws":
            until(lambda: request(self.port, LIVENESS[self.name]).status == 200, f"{self.name} answers")

    def _open(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended:\n{self.log()[-3000:]}"
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def stop(self, signum: int = signal.SIGTERM, seconds: float = 40.0) -> None:
        """Send a signal and wait for the end."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signum)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise

    def close(self) -> None:
        """Stop, and let go of the log."""
        try:
            self.stop()
        finally:
            self._log.close()

    def log(self) -> str:
        """Give everything that the process has written so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode()

    def lines(self) -> list[dict[str, Any]]:
        """Give the log lines, each of which must be JSON."""
        return [json.loads(line) for line in self.log().splitlines() if line.strip()]

    def workers(self) -> list[int]:
        """Give the ids of the worker processes."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


@contextmanager
def servers(
    *names: str, ports: Mapping[str, int] | None = None, **settings: str
) -> Iterator[dict[str, Server]]:
    """Run some of ``aws``, ``auxiliary`` and ``gateway``; the others' ports may be given, for stand-ins.

    Without rate limits, unless they are switched on: tests ask a lot.
    """
    chosen = {name: (ports or {}).get(name) or free_port() for name in COMMANDS}
    shell = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    environment = environments({}, shell, chosen)
    running = {}
    try:
        for name in names:
            every = {**environment[name], "RATE_LIMIT_ENABLED": "false", **settings}
            running[name] = Server(name, chosen[name], every)
            running[name].start()
        yield running
    finally:
        # Callers first: a server keeps the connections of its callers open for a while.
        for server in reversed(running.values()):
            server.close()
