"""The pair in one process: the gateway's calls reach the auxiliary's Flask app without a socket."""

import io
import json
import logging
import logging.config
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError
from flask import Flask
from flask.testing import FlaskClient
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.util import SKIP_HEADER
from werkzeug.test import TestResponse

from auxiliary_service.app import create_app as create_auxiliary
from auxiliary_service.aws.clients import Clients
from auxiliary_service.settings import Settings as AuxiliarySettings
from chassis import json_logs
from chassis.settings import load
from main_api.app import create_app as create_gateway
from main_api.settings import Settings as GatewaySettings
from main_api.upstream.session import Session


class InProcess(HTTPAdapter):
    """Calls a WSGI application instead of the network, and keeps what it was asked and what it answered."""

    def __init__(self, app: Flask) -> None:
        super().__init__()
        self._client = app.test_client(use_cookies=False)
        self.sent: list[requests.PreparedRequest] = []
        self.answers: list[TestResponse] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:  # type: ignore[override]
        self.sent.append(request)
        headers = [(name, value) for name, value in request.headers.items() if value != SKIP_HEADER]
        answer = self._client.open(
            str(request.path_url), method=str(request.method), base_url=_origin(request), headers=headers
        )
        self.answers.append(answer)
        raw = HTTPResponse(
            io.BytesIO(answer.data),
            headers=list(answer.headers.items()),  # type: ignore[arg-type]
            status=answer.status_code,
            preload_content=False,
            decode_content=False,
        )
        return self.build_response(request, raw)


def _origin(request: requests.PreparedRequest) -> str:
    return str(request.url).removesuffix(str(request.path_url))


@dataclass
class FakeAws:
    """Stands for both boto3 clients: answers with what is put into ``answer``, or raises it."""

    answer: Any = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def _call(self, operation: str, arguments: dict[str, Any]) -> Any:
        self.calls.append((operation, arguments))
        answer = self.answer(operation, arguments) if callable(self.answer) else self.answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def list_buckets(self, **arguments: Any) -> Any:
        return self._call("ListBuckets", arguments)

    def get_parameter(self, **arguments: Any) -> Any:
        return self._call("GetParameter", arguments)

    def get_parameters_by_path(self, **arguments: Any) -> Any:
        return self._call("GetParametersByPath", arguments)

    def fail(self, code: str, status: int = 400) -> None:
        """Have every call refused with an error code of AWS."""

        def refuse(operation: str, _: dict[str, Any]) -> ClientError:
            said = {"Error": {"Code": code, "Message": "secret-host arn:aws:x"}}
            return ClientError({**said, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)  # type: ignore[arg-type,typeddict-item]

        self.answer = refuse


@dataclass
class Pair:
    """Both apps, a client of each, and the wire between them."""

    gateway_app: Flask
    auxiliary_app: Flask
    gateway: FlaskClient
    auxiliary: FlaskClient
    wire: InProcess
    aws: FakeAws


MakePair = Callable[..., Pair]


def make_pair(clients: Clients | None, aws: FakeAws, **environ: str) -> Pair:
    # Without limits, for tests ask a lot.
    environ = {"DRAIN_FILE": "/nonexistent/draining", "RATE_LIMIT_ENABLED": "false", **environ}
    auxiliary_app = create_auxiliary(load(AuxiliarySettings, environ), clients)
    wire = InProcess(auxiliary_app)
    session = Session(pool_size=4, connect_timeout=0.5)
    session.mount("http://", wire)
    gateway_app = create_gateway(load(GatewaySettings, environ), session)
    return Pair(gateway_app, auxiliary_app, gateway_app.test_client(), auxiliary_app.test_client(), wire, aws)


@pytest.fixture(scope="session")
def pair_over_fake_aws() -> MakePair:
    """Make pairs whose AWS is a :class:`FakeAws`; settings of both services by name."""

    def make(**environ: str) -> Pair:
        aws = FakeAws()
        return make_pair(Clients(s3=aws, ssm=aws), aws, **environ)

    return make


@pytest.fixture(scope="session")
def pair_over_boto3() -> MakePair:
    """Make pairs whose AWS is reached by boto3, so through moto inside ``mock_aws``."""

    def make(**environ: str) -> Pair:
        return make_pair(None, FakeAws(), **environ)

    return make


@dataclass
class Lines:
    """What the services log, as they would write it to standard error."""

    stream: io.StringIO

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Log as the services do with ``LOG_LEVEL=debug``, into memory."""
    stream = io.StringIO()
    configuration = json_logs.configuration("pair", "test", "1", "debug")
    configuration["handlers"]["stderr"]["stream"] = stream
    names = ["", *configuration["loggers"]]
    before = {name: logging.getLogger(name or None) for name in names}
    kept = {name: (each.level, list(each.handlers), each.propagate) for name, each in before.items()}
    logging.config.dictConfig(configuration)
    yield Lines(stream)
    for name, (level, handlers, propagate) in kept.items():
        logger = before[name]
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate
