"""The upstream's processes in a test's hands: started, killed, stopped, continued, and never left behind."""

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.end_to_end.processes import HOST, ROOT, free_port, until
from tests.faults.child import Child


class Upstream(Child):
    """One process of :mod:`tests.faults.upstream`; ``delay`` is in seconds.

    It keeps its port and its journal through any number of starts. Signals go to its own child alone.
    """

    def __init__(
        self,
        port: int | None = None,
        *,
        journal: Path | None = None,
        delay: float = 0.0,
        answer: str = "data",
        cache_control: str = "",
    ) -> None:
        self.port = port or free_port()
        self._arguments = ["--port", str(self.port), "--delay", str(delay), "--answer", answer]
        if cache_control:
            self._arguments += ["--cache-control", cache_control]
        if journal is not None:
            self._arguments += ["--journal", str(journal)]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    def begin(self) -> None:
        """Start and do not wait; for use within a load run, which must not be held up."""
        assert not self.running, f"the upstream on port {self.port} runs already"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.upstream", *self._arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start, and wait until the port takes connections."""
        self.begin()
        self.wait_until_open()

    def wait_until_open(self) -> None:
        """Wait until the port takes connections; fail when the process ends instead."""
        until(self._open, f"the upstream on port {self.port} listens")

    def _open(self) -> bool:
        assert self.running, f"the upstream on port {self.port} ended"
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


@contextmanager
def upstreams(
    count: int,
    *,
    journal: Path | None = None,
    delay: float = 0.0,
    answer: str = "data",
    cache_control: str = "",
) -> Iterator[list[Upstream]]:
    """Run ``count`` upstreams that share a journal; all have ended when the block has."""
    running = [
        Upstream(journal=journal, delay=delay, answer=answer, cache_control=cache_control)
        for _ in range(count)
    ]
    try:
        for one in running:
            one.begin()
        for one in running:
            one.wait_until_open()
        yield running
    finally:
        for one in running:
            one.close()


def attempts(journal: Path) -> Counter[str]:
    """Count in a journal how often each request id arrived; no journal yet is no attempt."""
    if not journal.exists():
        return Counter()
    return Counter(line.split(" ", 1)[0] for line in journal.read_text("latin-1").splitlines())
