"""What every test needs before the first import of the services."""

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings as hypothesis_settings
from werkzeug.test import TestResponse

# prometheus_client decides at its import whether it is in multiprocess mode, as it always is here.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = METRICS = tempfile.mkdtemp(prefix="metrics-")
# Whatever a test forgets to stub must not find an account.
os.environ.update(
    AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true"
)
os.environ.pop("AWS_PROFILE", None)


class Sleep:
    """Stands in for ``time.sleep`` before anything is imported that takes it as a default argument."""

    refused = False

    def __call__(self, seconds: float, /, sleep: Callable[[float], None] = time.sleep) -> None:
        # The standard library's own wait for a child process is a loop of short sleeps.
        if self.refused and sys._getframe(1).f_globals["__name__"] != "subprocess":
            refuse()
        sleep(seconds)


time.sleep = SLEEP = Sleep()


def refuse(*_: object) -> NoReturn:
    raise AssertionError("only tests/end_to_end and tests/faults connect and sleep")


class ClosingClient(FlaskClient):
    """Flask's test client that, as every WSGI server must, reads an answer to its end and closes it."""

    def open(self, *arguments: Any, **options: Any) -> TestResponse:
        return super().open(*arguments, **{"buffered": True, **options})


Flask.test_client_class = ClosingClient

# Where a test says no other number. What it says of a time would be the machine's: so there is no deadline.
hypothesis_settings.register_profile("here", max_examples=40, deadline=None)
hypothesis_settings.load_profile("here")


@pytest.fixture(autouse=True)
def no_sockets_and_no_sleep(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every test but those with real processes to fakes: no connection, no waiting for time to pass."""
    if {"end_to_end", "faults"} & set(request.path.parts):
        return

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(SLEEP, "refused", True)


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(METRICS, ignore_errors=True)
