"""`make run`: from nothing to an answer, and back to nothing."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from chassis.settings import RUNTIME_DIR
from tests.end_to_end.processes import HOST, ROOT, free_port, request, until


def command(ports: dict[str, int]) -> list[str]:
    """Write what `make run` runs."""
    return [sys.executable, "-m", "dev.run", *(f"--{name}-port={port}" for name, port in ports.items())]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_it_says_when_it_is_ready_and_leaves_nothing_behind(signum: signal.Signals) -> None:
    ports = {"gateway": free_port(), "auxiliary": free_port(), "aws": free_port()}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command(ports), cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )

        def said() -> str:
            return os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0).decode()

        try:
            until(lambda: "Try" in said(), f"the banner; it said:\n{said()}")
            children = descendants(process.pid)
            for target in ("/api/s3/buckets", "/api/parameters/list", "/api/parameters?name=database/host"):
                assert f"http://{HOST}:{ports['gateway']}{target}" in said()
                assert request(ports["gateway"], target).status == 200
        finally:
            process.send_signal(signum)
            process.wait(20)

        assert process.returncode == 0
        assert "Traceback" not in said()
        assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
        for service, name in (("main-api", "gateway"), ("auxiliary-service", "auxiliary")):
            assert list(RUNTIME_DIR.glob(f"{service}-{ports[name]}.*")) == []


def descendants(pid: int) -> list[int]:
    """Give the ids of all processes below ``pid``."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, listed) for found in (child, *descendants(child))]


def test_a_port_in_use_is_one_clear_line_before_anything_starts() -> None:
    with socket.create_server((HOST, 0)) as holder:
        taken = holder.getsockname()[1]
        ports = {"gateway": taken, "auxiliary": free_port(), "aws": free_port()}
        done = subprocess.run(
            command(ports), cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )

    assert done.returncode != 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert str(taken) in done.stderr
    assert "GATEWAY_PORT=" in done.stderr
