"""Probes: liveness and serving depend on nobody, readiness asks the auxiliary, once for all who ask."""

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from cachetools import TTLCache

from chassis.errors import ServiceError
from main_api.blueprints import health
from main_api.blueprints.health import Readiness
from main_api.errors import (
    BadGateway,
    BrokenOff,
    GatewayTimeout,
    Malformed,
    ServiceRefused,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Reply
from tests.main_api.support import Answer, Upstream, app_of, call, gateway

HEALTHY = Answer(b'{"status":"healthy","service":"auxiliary-service","version":"2.3.4"}')
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Timer:
    """The clock of the readiness' cache, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Timer:
    timer = Timer()
    monkeypatch.setattr(health, "TTLCache", partial(TTLCache, timer=timer))
    return timer


def refused(request: requests.PreparedRequest) -> Exception:
    return requests.ReadTimeout(f"no answer from {request.url}")


def shown(answer: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(answer.data)
    assert TIME.fullmatch(body.pop("timestamp"))
    return body


def test_a_pair_that_answers_is_ready() -> None:
    client, upstream = gateway(HEALTHY)

    answer = client.get("/api/health/ready")

    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert shown(answer) == {
        "status": "ready",
        "versions": {"main-api": "1.0.0", "auxiliary-service": "2.3.4"},
        "service": "main-api",
    }
    assert [each.url for each in upstream.sent] == ["http://localhost:3001/health"]


NOT_READY = {
    "status": "not ready",
    "error": "Auxiliary service not available",
    "versions": {"main-api": "1.0.0", "auxiliary-service": "unknown"},
    "service": "main-api",
}


@pytest.mark.parametrize(
    "respond",
    [
        refused,
        Answer(b"<html>", 200).with_headers(Content_Type="text/html"),
        Answer(b"", 401),
        Answer(b'{"status":"ill"}', 503),
        requests.ConnectionError("reset"),
    ],
)
def test_a_pair_that_does_not_answer_is_not_ready(respond: Any) -> None:
    client, _ = gateway(respond)

    answer = client.get("/api/health/ready")

    assert answer.status_code == 503
    assert shown(answer) == NOT_READY


def test_not_ready_forgets_no_version_for_the_other_answers_and_shows_none(timer: Timer) -> None:
    client, upstream = gateway(HEALTHY)
    client.get("/api/health/ready")
    upstream.respond = refused
    timer.now += 2

    assert shown(client.get("/api/health/ready")) == NOT_READY
    assert client.get("/nowhere").get_json()["versions"]["auxiliary-service"] == "2.3.4"


def test_the_answer_is_kept_for_a_second(timer: Timer) -> None:
    client, upstream = gateway(HEALTHY)

    for moment, calls in ((0.0, 1), (0.5, 1), (0.999, 1), (1.0, 2), (1.9, 2), (2.1, 3)):
        timer.now = moment
        assert client.get("/api/health/ready").status_code == 200
        assert len(upstream.sent) == calls


def test_a_bad_answer_is_kept_as_long_and_then_asked_anew(timer: Timer) -> None:
    client, upstream = gateway(refused)
    assert client.get("/api/health/ready").status_code == 503
    upstream.respond = lambda _: HEALTHY

    timer.now = 0.9
    assert client.get("/api/health/ready").status_code == 503
    timer.now = 1.1
    assert client.get("/api/health/ready").status_code == 200


def test_each_asker_has_its_own_request_id() -> None:
    client, _ = gateway(HEALTHY)

    ids = [
        client.get("/api/health/ready", headers={"X-Request-ID": each}).headers["X-Request-ID"]
        for each in "ab"
    ]

    assert ids == ["a", "b"]


def test_the_auxiliary_has_one_second_at_most() -> None:
    client, upstream = gateway(HEALTHY, REQUEST_TIMEOUT="60")

    client.get("/api/health/ready")

    assert 500 < int(upstream.headers["x-request-timeout-ms"]) <= 900
    [(_, read)] = upstream.timeouts
    assert 0.5 < read <= 1.0


def test_all_instances_together_have_one_second_at_most() -> None:
    client, upstream = gateway(refused, AUXILIARY_SERVICE_URL="http://a.test,http://b.test,http://c.test")

    client.get("/api/health/ready")

    assert len(upstream.timeouts) == 3
    assert sum(read for _, read in upstream.timeouts) <= 1.0


@pytest.mark.parametrize("alive", ["a.test", "b.test", "c.test"])
def test_one_instance_that_answers_is_enough(alive: str) -> None:
    def respond(request: requests.PreparedRequest) -> Answer | Exception:
        return HEALTHY if alive in str(request.url) else refused(request)

    client, _ = gateway(respond, AUXILIARY_SERVICE_URL="http://a.test,http://b.test,http://c.test")

    assert client.get("/api/health/ready").status_code == 200


def test_none_that_answers_is_not_ready_after_each_was_asked_once() -> None:
    client, upstream = gateway(refused, AUXILIARY_SERVICE_URL="http://a.test,http://b.test,http://c.test")

    assert client.get("/api/health/ready").status_code == 503
    assert sorted(str(each.url) for each in upstream.sent) == [f"http://{name}.test/health" for name in "abc"]


def test_every_instance_is_tried_also_while_others_take_turns() -> None:
    """A request that comes between two tries must not make both of them go to the same instance."""
    busy = False

    def respond(request: requests.PreparedRequest) -> Answer | Exception:
        nonlocal busy
        if not busy and str(request.url).endswith("/health"):
            busy = True
            other.get("/api/s3/buckets")
        return HEALTHY if "b.test" in str(request.url) else refused(request)

    upstream = Upstream(respond)
    app = app_of(upstream, AUXILIARY_SERVICE_URL="http://a.test,http://b.test")
    other = app.test_client()

    assert app.test_client().get("/api/health/ready").status_code == 200


# The class alone.


def readiness(ask: Callable[[Call], Reply], instances: int = 1) -> Readiness:
    return Readiness(ask, lambda: instances, lambda: {"main-api": "1", "auxiliary-service": "2"})


def telling(ask: Callable[[Call], Reply]) -> Readiness:
    """Make one whose every answer differs, however quickly they follow one another."""
    numbers = itertools.count()
    return Readiness(ask, lambda: 1, lambda: {"main-api": str(next(numbers))})


def test_the_number_of_instances_is_asked_anew_each_time(timer: Timer) -> None:
    deadlines: list[float] = []
    found = 1

    def ask(each: Call) -> Reply:
        deadlines.append(each.deadline)
        raise UpstreamUnavailable

    ready = Readiness(ask, lambda: found, lambda: {"main-api": "1"})
    ready(call())
    assert len(deadlines) == 1

    found, timer.now = 3, 2.0
    ready(call())
    assert len(deadlines) == 4


def test_without_instances_it_is_asked_once_and_not_ready() -> None:
    asked: list[Call] = []

    def ask(each: Call) -> Reply:
        asked.append(each)
        raise UpstreamUnavailable

    assert readiness(ask, 0)(call()).status == 503
    assert len(asked) == 1


@pytest.mark.parametrize(
    "error",
    [
        UpstreamUnavailable(),
        GatewayTimeout(),
        BadGateway(),
        BrokenOff(),
        Malformed(),
        ServiceRefused(503, "aws_throttled", "x", retry_after=1, service_version=None),
        ServiceError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_error_of_the_call_is_raised(error: ServiceError) -> None:
    def ask(_: Call) -> Reply:
        raise error

    assert readiness(ask)(call()).status == 503


def test_nothing_of_the_askers_query_is_asked_of_the_auxiliary() -> None:
    asked: list[Call] = []

    readiness(lambda each: asked.append(each) or Reply(200))(call("/api/health/ready", query=[("a", "b")]))  # type: ignore[func-returns-value]

    assert [(each.method, each.path, each.query) for each in asked] == [("GET", "/health", ())]


def test_the_answer_of_the_auxiliary_is_closed() -> None:
    closed: list[int] = []

    def ask(_: Call) -> Reply:
        reply = Reply(200)
        reply.on_close(lambda: closed.append(1))
        return reply

    readiness(ask)(call())

    assert closed == [1]


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Count those who wait for another's answer."""
    waiters = threading.Semaphore(0)

    class Telling(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waiters.release()
            return super().wait(timeout)

    monkeypatch.setattr(health, "threading", SimpleNamespace(Condition=Telling))
    return waiters  # type: ignore[return-value]


def test_all_who_ask_at_once_share_one_call(timer: Timer, waiting: threading.Semaphore) -> None:
    askers = 8
    asked: list[Call] = []
    release = threading.Event()

    def ask(each: Call) -> Reply:
        asked.append(each)
        assert release.wait(10)
        return Reply(200)

    shared = readiness(ask)
    with ThreadPoolExecutor(askers) as threads:
        answers = [threads.submit(shared, call()) for _ in range(askers)]
        try:
            assert all(waiting.acquire(timeout=10) for _ in range(askers - 1))
        finally:
            release.set()
        replies = [each.result(10) for each in answers]

    assert len(asked) == 1
    assert {(reply.status, reply.body) for reply in replies} == {(200, replies[0].body)}
    assert len({id(reply) for reply in replies}) == askers


def test_who_asks_while_the_next_answer_is_on_its_way_gets_the_one_before(
    timer: Timer, waiting: threading.Semaphore
) -> None:
    asked, release = threading.Semaphore(0), threading.Event()
    release.set()

    def ask(_: Call) -> Reply:
        asked.release()
        assert release.wait(10)
        return Reply(200)

    shared = telling(ask)
    before = shared(call())
    release.clear()
    timer.now = 1.5
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(shared, call())
        try:
            assert all(asked.acquire(timeout=10) for _ in range(2))
            meanwhile = [shared(call()) for _ in range(3)]
        finally:
            release.set()
        after = first.result(10)

    assert {each.body for each in meanwhile} == {before.body}
    assert after.body != before.body
    assert shared(call()).body == after.body
    assert not waiting.acquire(blocking=False)


def test_an_answer_of_long_ago_is_not_given_and_the_next_one_waited_for(
    timer: Timer, waiting: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, release = threading.Semaphore(0), threading.Event()
    release.set()

    def ask(_: Call) -> Reply:
        asked.release()
        assert release.wait(10)
        return Reply(200)

    shared = telling(ask)
    before = shared(call())
    release.clear()
    now = time.monotonic()
    timer.now = 3
    monkeypatch.setattr(health, "monotonic", lambda: now + 3)
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(shared, call()) for _ in range(2)]
        try:
            assert all(asked.acquire(timeout=10) for _ in range(2))
            assert waiting.acquire(timeout=10)
        finally:
            release.set()
        bodies = {each.result(10).body for each in answers}

    assert len(bodies) == 1
    assert bodies != {before.body}


def test_a_bug_in_one_call_does_not_lock_the_others_out(timer: Timer) -> None:
    answers: list[Reply | Exception] = [RuntimeError("a bug"), Reply(200)]

    def ask(_: Call) -> Reply:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shared = readiness(ask)
    with pytest.raises(RuntimeError):
        shared(call())

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(shared, call()).result(10).status == 200


# The plain ones.


def test_liveness_is_ok_as_text_and_asks_nobody() -> None:
    client, upstream = gateway(refused)

    answer = client.get("/api/health")

    assert (answer.status_code, answer.data) == (200, b"OK")
    assert answer.mimetype == "text/plain"
    assert upstream.sent == []


def test_serving_turns_503_while_the_drain_file_is_there(tmp_path: Path) -> None:
    file = tmp_path / "draining"
    client, upstream = gateway(refused, DRAIN_FILE=str(file))

    statuses = []
    for draining in (False, True, False):
        file.touch() if draining else file.unlink(missing_ok=True)
        statuses.append(client.get("/api/health/serving").status_code)

    assert statuses == [200, 503, 200]
    assert upstream.sent == []


@pytest.mark.parametrize("path", ["/api/health", "/api/health/ready", "/api/health/serving", "/metrics"])
def test_probes_are_logged_below_info_only(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    client, _ = gateway(HEALTHY)

    client.get(path)

    [line] = [record for record in caplog.records if record.name == "chassis.access_log"]
    assert line.levelname == "DEBUG"
