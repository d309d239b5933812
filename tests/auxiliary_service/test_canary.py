"""A secret must not be found anywhere but in the one answer that may carry it."""

import io
import logging
import logging.config
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from flask.testing import FlaskClient
from moto import mock_aws

from auxiliary_service.app import create_app
from auxiliary_service.settings import Settings
from chassis import json_logs
from chassis.settings import load

CANARY = "canary-5ecret-plain-text"
LOGGERS = ("", "botocore", "boto3", "urllib3", "werkzeug", "gunicorn.error", "gunicorn.access")


class Sinks:
    """Everything that leaves the service: answers, with their headers, and the log."""

    def __init__(self, client: FlaskClient, log: io.StringIO) -> None:
        self._client = client
        self.log = log
        self.answers = ""

    def ask(self, path: str, **headers: str) -> Any:
        answer = self._client.get(path, headers=headers)
        self.answers += f"{answer.headers}{answer.text}"
        return answer


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Log as the service does with LOG_LEVEL=debug, the most talkative that an operator can set."""
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in LOGGERS]
    root, written = logging.getLogger(), io.StringIO()
    handlers = root.handlers[:]
    made = json_logs.configuration("auxiliary-service", "test", "1.0.0", "debug")
    made["handlers"]["stderr"]["stream"] = written
    logging.config.dictConfig(made)
    yield written
    root.handlers[:] = handlers
    for logger, level in before:
        logger.setLevel(level)
        logger.propagate = True


@pytest.fixture
def sinks(log: io.StringIO, given: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sinks]:
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    monkeypatch.setattr(Settings, "metrics_path", property(lambda _: folder))
    with mock_aws():
        ssm = boto3.client("ssm", "us-west-2")
        ssm.put_parameter(Name="/myproject/password", Value=CANARY, Type="SecureString")
        ssm.put_parameter(Name="/myproject/plain", Value="in the open", Type="String")
        environ = {"INTERNAL_TOKEN": given.token, "ALLOW_DECRYPTION": "true", "LOG_LEVEL": "debug"}
        yield Sinks(create_app(load(Settings, environ)).test_client(), log)


REDACTED = [
    "/aws/parameters?name=password",
    "/aws/parameters?name=password&decrypt=false",
    "/aws/parameters/list",
    "/aws/parameters/list?limit=1",
    "/aws/parameters?name=password/missing",
    "/aws/parameters?name=password&unknown=1",
]
OPENED = ["/aws/parameters?name=password&decrypt=true", "/aws/parameters/list?decrypt=true"]


def test_without_decryption_it_is_nowhere(sinks: Sinks, given: Any) -> None:
    for path in REDACTED + OPENED:
        sinks.ask(path, **given.headers("parameters:read"))
        sinks.ask(path, Authorization="Bearer wrong")
    metrics = sinks.ask("/metrics")
    assert "aws_request_duration_seconds_bucket" in metrics.text
    assert "in the open" in sinks.answers
    assert CANARY not in sinks.answers
    # Nor the emulated cipher text, which is made of the plain one.
    assert "kms:" not in sinks.answers
    assert '"GET /aws/parameters 200"' in sinks.log.getvalue()
    assert CANARY not in sinks.log.getvalue()


def test_with_decryption_it_is_in_its_answers_alone(sinks: Sinks, given: Any) -> None:
    headers = given.headers("parameters:read parameters:decrypt")
    for path in OPENED:
        answer = sinks.ask(path, **headers)
        assert answer.status_code == 200
        assert CANARY in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
    sinks.answers = ""
    for path in REDACTED:
        sinks.ask(path, **headers)
    sinks.ask(OPENED[0], **headers, **{"X-Request-Timeout-Ms": "0"})
    sinks.ask(f"{OPENED[0]}&x=1", **headers)
    sinks.ask("/metrics")
    assert CANARY not in sinks.answers
    assert CANARY not in sinks.log.getvalue()


def test_a_fault_on_the_way_of_a_secret_does_not_tell_it(
    sinks: Sinks, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("after the secret was read")

    monkeypatch.setattr("auxiliary_service.blueprints.answers._tag", fail)
    for path in OPENED:
        assert sinks.ask(path, **given.headers("parameters:read parameters:decrypt")).status_code == 500
    assert "after the secret was read" in sinks.log.getvalue()
    assert CANARY not in sinks.answers + sinks.log.getvalue()


def test_the_internal_token_is_in_no_log_and_no_answer(sinks: Sinks, given: Any) -> None:
    sinks.ask(REDACTED[0], **given.headers("parameters:read"))
    sinks.ask(REDACTED[0], Authorization="Bearer wrong")
    assert given.token not in sinks.answers + sinks.log.getvalue()
