"""What the gateway's tests share: a gateway whose upstream answers from memory, and calls to send."""

import io
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import requests
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.util import SKIP_HEADER

from chassis.settings import load
from main_api.app import create_app
from main_api.exchange import Call, Caller, Instance, Proceed
from main_api.policies.admission import Admission, AdmissionSettings
from main_api.policies.cache import Store
from main_api.policies.retry import RetrySettings
from main_api.routing.pipeline import Parts
from main_api.routing.service import Service, ServiceNumbers
from main_api.settings import Settings
from main_api.telemetry import Telemetry
from main_api.upstream.session import Session

BODY = b'{"success":true,"data":[],"count":0,"timestamp":"2023-12-01T12:00:00.000Z"}'
INSTANCE = Instance("auxiliary-service", "http://upstream.test:3001")


@dataclass(frozen=True)
class Answer:
    """What an upstream answers; ``headers`` replace all of the ordinary ones when given."""

    body: bytes = BODY
    status: int = 200
    headers: tuple[tuple[str, str], ...] | None = None

    def with_headers(self, **more: str) -> "Answer":
        """Add headers; ``_`` in a name is ``-``, an empty value takes the header away."""
        named = {name.replace("_", "-"): value for name, value in more.items()}
        merged = {**dict(self.all_headers), **named}
        return Answer(self.body, self.status, tuple((k, v) for k, v in merged.items() if v))

    @property
    def all_headers(self) -> tuple[tuple[str, str], ...]:
        if self.headers is not None:
            return self.headers
        length = str(len(self.body))
        return (
            ("Content-Type", "application/json"),
            ("Content-Length", length),
            ("X-Service-Version", "2.3.4"),
        )


def error_answer(status: int, code: str, sentence: str = "A sentence", **headers: str) -> Answer:
    """Make an error as the auxiliary writes it."""
    facts = {"success": False, "error": sentence, "code": code, "requestId": "theirs", "timestamp": "…"}
    return Answer(json.dumps(facts).encode(), status).with_headers(**headers)


Respond = Callable[[requests.PreparedRequest], Answer | Exception]


class Upstream(HTTPAdapter):
    """Stands in for the network: answers from ``respond`` and keeps what it was sent."""

    def __init__(self, respond: Respond | Answer | Exception) -> None:
        super().__init__()
        self.respond: Respond = respond if callable(respond) else lambda _: respond
        self.sent: list[requests.PreparedRequest] = []
        self.timeouts: list[Any] = []
        self.raws: list[HTTPResponse] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        self.sent.append(request)
        self.timeouts.append(options.get("timeout"))
        answer = self.respond(request)
        if isinstance(answer, Exception):
            raise answer
        raw = HTTPResponse(
            io.BytesIO(answer.body),
            headers=list(answer.all_headers),  # type: ignore[arg-type]
            status=answer.status,
            preload_content=False,
            decode_content=False,
        )
        self.raws.append(raw)
        return self.build_response(request, raw)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the only request that was sent, as urllib3 would put them onto the wire."""
        [request] = self.sent
        return {name.lower(): value for name, value in request.headers.items() if value != SKIP_HEADER}


def joined(*adapters: tuple[str, HTTPAdapter], connect_timeout: float = 0.5) -> Session:
    """Give a session whose calls go to ``adapters``, by the beginning of the URL."""
    session = Session(pool_size=4, connect_timeout=connect_timeout)
    for prefix, adapter in adapters:
        session.mount(prefix, adapter)
    return session


def settings(**environ: str) -> Settings:
    """Load the gateway's settings from this environment alone; without limits, for tests ask a lot."""
    return load(Settings, {"DRAIN_FILE": "/nonexistent/draining", "RATE_LIMIT_ENABLED": "false", **environ})


def app_of(upstream: HTTPAdapter, **environ: str) -> Flask:
    """Make a gateway in front of ``upstream``."""
    return create_app(settings(**environ), joined(("http://", upstream), ("https://", upstream)))


def gateway(respond: Respond | Answer | Exception = Answer(), **environ: str) -> tuple[FlaskClient, Upstream]:
    """Make a client of a gateway whose upstream answers by ``respond``, and that upstream."""
    upstream = Upstream(respond)
    return app_of(upstream, **environ).test_client(), upstream


def call(
    path: str = "/aws/s3/buckets",
    *,
    seconds: float = 5.0,
    query: Iterable[tuple[str, str]] = (),
    instance: Instance | None = INSTANCE,
    scopes: Iterable[str] = (),
    headers: tuple[tuple[str, str], ...] = (),
) -> Call:
    """Make a call with ``seconds`` left."""
    return Call(
        method="GET",
        path=path,
        query=tuple(query),
        headers=headers,
        deadline=time.monotonic() + seconds,
        caller=Caller("192.0.2.1", scopes=frozenset(scopes)),
        request_id="an-id",
        instance=instance,
    )


# One attempt: whoever has a test of retries says so.
NUMBERS = ServiceNumbers(request_timeout=10.0, attempt_timeout=3.0, retry=RetrySettings(attempts=1))


def telemetry() -> Telemetry:
    """Make figures of their own registry."""
    return Telemetry(CollectorRegistry())


def service(send: Proceed, *urls: str, name: str = "s", **numbers: Any) -> Service:
    """Make a service whose instances are at ``urls`` and are spoken to by ``send``; one attempt a call.

    ``numbers`` replace fields of :data:`NUMBERS`.
    """
    instances = tuple(Instance(name, url) for url in urls or ("http://a:1",))
    return Service(name, lambda: instances, send, replace(NUMBERS, **numbers), telemetry())


def parts(*services: Service, slots: int = 16, store: Store | None = None) -> Parts:
    """Make what pipelines are built of: ``services``, and a process of ``slots`` without a queue.

    No route has a cache, unless ``store`` is given.
    """
    return Parts(Admission(AdmissionSettings(slots, 0)), store, {each.name: each for each in services})
