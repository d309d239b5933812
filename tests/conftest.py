"""What every test needs before the first import of the services."""

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NoReturn

import pytest

# prometheus_client decides at its import whether it is in multiprocess mode, as it always is here.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = METRICS = tempfile.mkdtemp(prefix="metrics-")
# Whatever a test forgets to stub must not find an account.
os.environ.update(
    AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true"
)
os.environ.pop("AWS_PROFILE", None)


@pytest.fixture(autouse=True)
def no_sockets_and_no_sleep(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every test but those with real processes to fakes: no connection, no waiting for time to pass."""
    if "end_to_end" in request.path.parts:
        return

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("only tests/end_to_end connects and sleeps")

    def refuse_to_sleep(seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
        # The standard library's own wait for a child process is a loop of short sleeps.
        if sys._getframe(1).f_globals["__name__"] != "subprocess":
            refuse()
        sleep(seconds)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(time, "sleep", refuse_to_sleep)


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(METRICS, ignore_errors=True)
