"""A small application on the chassis, its log as it is written, its metrics as they are scraped."""

import json
import logging
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, g
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from chassis.client_address import ClientAddress, Network
from chassis.error_body import Versions
from chassis.install import install
from chassis.json_logs import JsonFormatter, request_context
from chassis.response_headers import Cors
from chassis.settings import ServiceSettings

SERVICE = "test-service"
CORS = Cors(("*",), allow_headers="X-API-Key", expose_headers="ETag, X-Request-ID")


def _settings(service: str, folder: Path) -> ServiceSettings:
    class Settings(ServiceSettings):
        SERVICE = service
        metrics_path = folder

    return Settings()


def _sized(size: int) -> Response:
    """Give a JSON body of exactly ``size`` bytes."""
    return Response(json.dumps("x" * (size - 2)), content_type="application/json")


def _trace() -> dict[str, str]:
    headers: dict[str, str] = g.trace.headers
    return headers


def _bug() -> str:
    raise RuntimeError("the text of a bug")


@pytest.fixture(scope="session")
def make_app(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Flask]:
    """Make an app with the rules that every test may ask for, and ``views`` by their rules."""
    empty = tmp_path_factory.mktemp("workers")

    def make(
        views: Mapping[str, Callable[..., Any]] | None = None,
        *,
        trusted: Sequence[Network] = (),
        cors: Cors | None = CORS,
        versions: Versions | None = None,
        probes: Collection[str] = ("/probe",),
        service: str = SERVICE,
        folder: Path = empty,
        told: Callable[[str, int, float], object] | None = None,
    ) -> Flask:
        app = Flask("test_service", static_folder=None)
        app.extensions["registry"] = install(
            app,
            _settings(service, folder),
            probes=probes,
            client_address=ClientAddress(trusted),
            versions=versions,
            cors=cors,
            counted=told,
        )
        rules: dict[str, Callable[..., Any]] = {
            "/": lambda: "home",
            "/plain": lambda: "plain",
            "/probe": lambda: "OK",
            "/sized/<int:size>": _sized,
            "/trace": _trace,
            "/bug": _bug,
            **(views or {}),
        }
        for rule, view in rules.items():
            app.add_url_rule(rule, rule.replace(".", "_"), view)
        return app

    return make


@pytest.fixture
def service() -> str:
    """A name that only this test counts under: other apps and processes share the files of figures."""
    return f"service-{secrets.token_hex(8)}"


@pytest.fixture
def fresh(make_app: Callable[..., Flask], service: str) -> FlaskClient:
    """A client of an app of its own, with figures of its own."""
    return make_app(service=service).test_client()


@pytest.fixture(scope="session")
def client(make_app: Callable[..., Flask]) -> FlaskClient:
    """A client of an app with nothing but the common rules."""
    return make_app().test_client()


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.setFormatter(JsonFormatter(SERVICE, "testing", "1.2.3"))

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        assert "\n" not in text
        self.lines.append(json.loads(text))


@pytest.fixture
def logged() -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Give the lines written so far by a logger, at every level, as a log collector would read them."""
    kept, root = _Kept(), logging.getLogger()
    level = root.level
    root.addHandler(kept)
    root.setLevel(logging.DEBUG)

    def lines(logger: str = "chassis.access_log") -> list[dict[str, Any]]:
        return [line for line in kept.lines if line["logger"] == logger]

    yield lines
    root.removeHandler(kept)
    root.setLevel(level)
    request_context.set({})


@pytest.fixture
def counted(client: FlaskClient, service: str) -> Callable[..., float]:
    """Sum the samples of ``name`` of this test's ``service`` that carry ``labels``, as scraped."""

    def count(name: str = "http_requests_total", **labels: str) -> float:
        # The figures of all tests before this one are on the page too: only its own lines are read closely.
        lines = (line for line in client.get("/metrics").text.splitlines() if line.startswith(name))
        own = "\n".join([*(line for line in lines if f'app="{service}"' in line), ""])
        return sum(
            sample.value
            for family in text_string_to_metric_families(own)
            for sample in family.samples
            if sample.name == name and (labels | {"app": service}).items() <= sample.labels.items()
        )

    return count
