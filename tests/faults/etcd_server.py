"""A real etcd in a test's hands: started, stopped, paused, wiped, written to, and never left behind."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.end_to_end.processes import HOST, free_port, until
from tests.faults.child import Child, program

BINARY = "etcd"
# What a test's own question may take, in seconds; a paused etcd is not asked by tests.
_ASKED_SECONDS = 5.0
# No proxy of the environment is between a test and its etcd.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class EtcdServer(Child):
    """One ``etcd``, a cluster of its own: it keeps its ports, and its data until :meth:`wipe`."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory()
        self._data = Path(self._folder.name) / "data"
        peer = f"http://{HOST}:{free_port()}"
        self._arguments = ["--name", "one", "--data-dir", str(self._data), "--initial-cluster", f"one={peer}"]
        self._arguments += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        self._arguments += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        self._arguments += ["--logger", "zap", "--log-level", "error"]

    @property
    def url(self) -> str:
        """What a source is given."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start, and wait until it gives answers; fail when the process ends instead."""
        assert not self.running, f"the etcd on port {self.port} runs already"
        self.process = subprocess.Popen(
            [program(BINARY, "etcd-server"), *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # It takes each option from there too.
            env={name: value for name, value in os.environ.items() if not name.startswith("ETCD_")},
        )
        until(self._answers, f"the etcd on port {self.port} answers")

    def _answers(self) -> bool:
        assert self.running, f"the etcd on port {self.port} ended"
        with suppress(OSError):
            self.ask("kv/range", key=_base64("any"))
            return True
        return False

    def ask(self, what: str, **facts: Any) -> dict[str, Any]:
        """Ask its JSON gateway once; raises :class:`OSError` when it does not answer with 200."""
        asked = urllib.request.Request(f"{self.url}/v3/{what}", json.dumps(facts).encode())
        with _open(asked, timeout=_ASKED_SECONDS) as answer:
            given: dict[str, Any] = json.load(answer)
        return given

    def put(self, key: str, value: str | bytes) -> int:
        """Write a key, and give the revision."""
        return _revision(self.ask("kv/put", key=_base64(key), value=_base64(value)))

    def delete(self, key: str, end: str | None = None) -> int:
        """Delete a key, or all from it to before ``end``, and give the revision."""
        more = {} if end is None else {"range_end": _base64(end)}
        return _revision(self.ask("kv/deleterange", key=_base64(key), **more))

    def compact(self, revision: int) -> None:
        """Forget what came to pass before ``revision``."""
        self.ask("kv/compaction", revision=str(revision), physical=True)

    def wipe(self) -> None:
        """Lose all data; it must have ended, and begins anew at revision 1."""
        assert not self.running, f"the etcd on port {self.port} still runs"
        shutil.rmtree(self._data, ignore_errors=True)

    def close(self) -> None:
        """End it, and remove its data."""
        super().close()
        self._folder.cleanup()


def _base64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _revision(answer: dict[str, Any]) -> int:
    return int(answer["header"]["revision"])


@contextmanager
def etcd_server(*, started: bool = True) -> Iterator[EtcdServer]:
    """Run an etcd; without the program, skip the test and say why."""
    running = EtcdServer()
    try:
        if started:
            running.start()
        yield running
    finally:
        running.close()
