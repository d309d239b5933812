"""The operations endpoints: what they say is what has happened, field by field, in this worker."""

import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from chassis.errors import NotFound
from main_api.blueprints.operations import RESERVED, Operations, reserved
from main_api.errors import BrokenOff, UpstreamUnavailable
from main_api.exchange import Instance, Proceed, Reply
from main_api.policies.circuit_breaker import BreakerSettings
from main_api.policies.instance_health import HealthThresholds
from main_api.routing.service import Service
from main_api.tally import Tally
from main_api.upstream.instances import ListState
from tests.main_api.policies.fakes import Clock, answer, failing, streaming
from tests.main_api.support import Answer, Upstream, app_of, call, gateway, service
from tests.main_api.support import parts as parts_of

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
NOW = datetime(2026, 11, 20, 19, 5, 0, tzinfo=UTC)
RESET = requests.ConnectionError("reset")
NAME = "auxiliary-service"
ONE, OTHER = "http://one.test", "http://other.test"
TARGETS = [
    "/health",
    f"/health/{NAME}",
    "/services",
    f"/services/{NAME}",
    "/circuit-breakers",
    "/routes",
    "/gateway/stats",
]


def get(client: FlaskClient, target: str, status: int = 200) -> Any:
    found = client.get(target)
    assert found.status_code == status, found.text
    return found.get_json()


# What all of them have.


@pytest.mark.parametrize("target", TARGETS)
def test_each_answer_is_json_that_nobody_keeps_and_names_its_worker(target: str) -> None:
    found = gateway()[0].get(target)

    assert (found.status_code, found.content_type) == (200, "application/json")
    assert found.headers["Cache-Control"] == "no-store"
    body = found.get_json()
    assert body["worker"] == os.getpid()
    assert TIME.fullmatch(body["timestamp"])
    age = datetime.now(UTC) - datetime.fromisoformat(body["timestamp"])
    assert timedelta(seconds=-1) < age < timedelta(minutes=1)


@pytest.mark.parametrize("target", TARGETS)
def test_they_ask_nobody(target: str) -> None:
    client, upstream = gateway(RESET)

    assert client.get(target).status_code == 200
    assert upstream.sent == []


@pytest.mark.parametrize("target", TARGETS)
def test_head_is_get_without_a_body_and_nothing_else_is_allowed(target: str) -> None:
    client, _ = gateway()

    assert client.head(target).status_code == 200
    assert client.head(target).data == b""
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE"):
        refused = client.open(target, method=method)
        assert refused.status_code == 405
        assert refused.headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("target", ["/health/another", "/services/another", "/services/auxiliary-servicE"])
def test_a_service_that_is_not_there_is_404_by_the_one_error_body(target: str) -> None:
    found = get(gateway()[0], target, 404)

    assert (found["code"], found["error"]) == ("not_found", "There is no such service")


@pytest.mark.parametrize(
    "path",
    [f"/health/{NAME}/", f"/services/{NAME}/x", "/health/", "/services/", "/circuit-breakers/", "/gateway"],
)
def test_other_paths_below_them_do_not_exist(path: str) -> None:
    assert get(gateway()[0], path, 404)["error"] == "Endpoint not found"


# Whether a path is theirs.


@pytest.mark.parametrize("path", [*RESERVED, *(f"{each}/x/y" for each in RESERVED), "/services/"])
def test_these_paths_and_all_below_them_are_theirs(path: str) -> None:
    assert reserved(path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/api/health",
        "/api/health/ready",
        "/healthy",
        "/metricsx",
        "/servicesx/a",
        "/Health",
        "/x/health",
    ],
)
def test_no_other_path_is_theirs(path: str) -> None:
    assert not reserved(path)


# How a service is.


class Listed:
    """A list that says what the test wants."""

    def __init__(
        self, source: str = "consul://aux", fault: str | None = None, at: float | None = 990.0
    ) -> None:
        self.state = ListState(source, fault, at)
        self.moments: dict[Instance, float] = {}

    def __call__(self) -> Sequence[Instance]:
        return ()

    def seen(self, instance: Instance) -> float | None:
        return self.moments.get(instance)


class Shown:
    """Services, their lists, and what is shown of them by a clock that stands still."""

    def __init__(self, *services: Service, **lists: Listed) -> None:
        self.services = {each.name: each for each in services}
        self.lists = {name: lists.get(name, Listed()) for name in self.services}
        self.clock, self.wall, self.tally = Clock(), NOW, Tally()
        made = replace(parts_of(*services), lists=self.lists)
        self.operations = Operations(made, self.tally, (), clock=self.clock, wall=lambda: self.wall)

    def __call__(self, what: str, name: str = "s") -> Any:
        reply: Reply = getattr(self.operations, what)(call(f"/anything/{name}"))
        self.status = reply.status
        assert isinstance(reply.body, bytes)
        return json.loads(reply.body)


def ask(made: Service, error: Exception | None = None) -> None:
    """Have the service asked once, by its balance and breakers."""
    end: Proceed = failing(error) if error else answer
    with suppress(BrokenOff, UpstreamUnavailable):
        made.balance(call(), lambda each: made.breakers(each, end)).close()


def ill(made: Service, *numbers: int, times: int = 3) -> None:
    """Have the health checks of these instances fail."""
    for number in numbers:
        for _ in range(times):
            made.checked(made.instances()[number], False, "status 503")


QUICK = BreakerSettings(failures_in_a_row=1)


def one() -> Service:
    return service(answer, "http://a:1", breaker=QUICK)


def two() -> Service:
    return service(answer, "http://a:1", "http://b:1", breaker=QUICK)


def nothing(_: Service) -> None: ...


@pytest.mark.parametrize(
    ("make", "prepare", "listed", "status", "why"),
    [
        (one, nothing, Listed(), "healthy", None),
        (two, lambda made: ill(made, 0), Listed(), "degraded", "1 of 2 instances not available"),
        (two, lambda made: ask(made, BrokenOff()), Listed(), "degraded", "1 of 2 instances not available"),
        (two, lambda made: ill(made, 0, 1), Listed(), "unhealthy", "2 of 2 instances not available"),
        (one, lambda made: ask(made, BrokenOff()), Listed(), "unhealthy", "1 of 1 instances not available"),
        (one, lambda made: ill(made, 0), Listed(), "unhealthy", "1 of 1 instances not available"),
        (one, lambda made: ill(made, 0, times=2), Listed(), "healthy", None),
        (
            two,
            lambda made: (ask(made, BrokenOff()), ask(made, BrokenOff())),
            Listed(),
            "unhealthy",
            "2 of 2 instances not available",
        ),
        (
            one,
            nothing,
            Listed(fault="connection refused", at=940.0),
            "degraded",
            "its list is of 2026-11-20T19:04:00.000Z: connection refused",
        ),
        (
            two,
            lambda made: ill(made, 1),
            Listed(fault="status 500", at=1000.0),
            "degraded",
            "1 of 2 instances not available; its list is of 2026-11-20T19:05:00.000Z: status 500",
        ),
    ],
)
def test_a_service_is_healthy_degraded_or_unhealthy(
    make: Callable[[], Service],
    prepare: Callable[[Service], object],
    listed: Listed,
    status: str,
    why: str | None,
) -> None:
    made = make()
    prepare(made)
    shown = Shown(made, s=listed)

    found = shown("service_health")
    assert (found["status"], found["why"]) == (status, why)
    assert shown.status == (503 if status == "unhealthy" else 200)

    detail = shown("service")
    assert (shown.status, detail["status"], detail["why"]) == (200, status, why)
    [summary] = shown("services")["services"]
    assert (shown.status, summary["status"]) == (200, status)
    health = shown("health")
    assert (shown.status, health["status"], health["services"][0]["status"]) == (200, status, status)


def test_before_the_first_list_a_service_is_unhealthy_and_says_why() -> None:
    empty = Service("s", lambda: (), answer, one().numbers, one()._telemetry)
    shown = Shown(empty, s=Listed(fault="not asked yet", at=None))

    found = shown("service_health")

    assert (shown.status, found["status"]) == (503, "unhealthy")
    assert found["why"] == "no instance is known; its list is not there yet: not asked yet"
    assert (found["instances"], found["available"], found["lastCheck"]) == (0, 0, None)
    assert shown("service")["source"] == {"name": "consul://aux", "fault": "not asked yet", "listedAt": None}


def test_one_that_may_be_asked_again_is_no_longer_unhealthy() -> None:
    """Whoever asks nobody while it is unhealthy would never find out that it is well again."""
    made = service(answer, breaker=BreakerSettings(failures_in_a_row=1, open_seconds=1e-9))
    ask(made, BrokenOff())
    shown = Shown(made)

    assert shown("service_health")["status"] == "degraded"
    assert shown.status == 200
    [instance] = shown("service")["instances"]
    assert (instance["state"], instance["breaker"]) == ("ejected", "open")


def test_the_whole_is_as_its_worst_service_and_always_200() -> None:
    well, poor, gone = (service(answer, "http://a:1", "http://b:1", name=name) for name in ("w", "p", "g"))
    ill(poor, 0)

    assert Shown(well)("health")["status"] == "healthy"
    assert Shown(well, poor)("health")["status"] == "degraded"
    ill(gone, 0, 1)
    shown = Shown(well, gone, poor)
    found = shown("health")
    assert (shown.status, found["status"]) == (200, "unhealthy")
    assert [(each["name"], each["status"]) for each in found["services"]] == [
        ("w", "healthy"),
        ("g", "unhealthy"),
        ("p", "degraded"),
    ]
    assert Shown()("health")["status"] == "healthy"


def test_the_last_check_is_the_latest_of_any_instance() -> None:
    made = two()
    a, b = made.instances()
    assert Shown(made)("service_health")["lastCheck"] is None
    clock = Clock(900.0)
    made.health._clock = clock
    made.checked(b, True, "")
    clock.now = 910.5
    made.checked(a, False, "TimeoutError")

    found = Shown(made)("service_health")["lastCheck"]

    assert found == {
        "instance": "http://a:1",
        "at": "2026-11-20T19:03:30.500Z",
        "ok": False,
        "cause": "TimeoutError",
    }
    assert [each["lastCheck"] for each in Shown(made)("service")["instances"]] == [
        {"at": "2026-11-20T19:03:30.500Z", "ok": False, "cause": "TimeoutError"},
        {"at": "2026-11-20T19:03:20.000Z", "ok": True, "cause": None},
    ]


def test_moments_are_those_of_the_wall_clock_as_it_is_set_now() -> None:
    shown = Shown(one(), s=Listed(at=1000.0))
    assert shown("service")["source"]["listedAt"] == "2026-11-20T19:05:00.000Z"

    shown.clock.now += 7
    shown.wall += timedelta(seconds=7, hours=1)  # and somebody set it an hour ahead

    assert shown("service")["source"]["listedAt"] == "2026-11-20T20:05:00.000Z"
    assert shown("service")["timestamp"] == "2026-11-20T20:05:07.000Z"


def test_an_instance_shows_its_source_weight_calls_and_latency() -> None:
    made = service(answer, "http://a:1", "http://b:1")
    a = made.instances()[0]
    listed = Listed("etcd:///aux", at=995.0)
    listed.moments = {a: 998.25}
    shown = Shown(made, s=listed)
    for number in range(1, 201):
        shown.tally.attempt("s", a.url, "2xx", number / 1000)
    held = made.balance(call(), lambda _: streaming(b"x"))

    found = shown("service")

    assert found["source"] == {"name": "etcd:///aux", "fault": None, "listedAt": "2026-11-20T19:04:55.000Z"}
    assert found["panic"] is False
    assert found["instances"] == [
        {
            "url": "http://a:1",
            "weight": 1,
            "state": "available",
            "why": None,
            "breaker": "closed",
            "inFlight": 1,
            # Of the last 128: 73 to 200.
            "latency": {"count": 128, "medianMs": 136.0, "p95Ms": 194.0},
            "lastCheck": None,
            "lastSeen": {"at": "2026-11-20T19:04:58.250Z", "source": "etcd:///aux"},
        },
        {
            "url": "http://b:1",
            "weight": 1,
            "state": "available",
            "why": None,
            "breaker": "closed",
            "inFlight": 0,
            "latency": {"count": 0, "medianMs": None, "p95Ms": None},
            "lastCheck": None,
            "lastSeen": {"at": None, "source": "etcd:///aux"},
        },
    ]
    held.close()


def test_checks_that_are_not_believed_are_told() -> None:
    made = two()
    ill(made, 0)
    assert Shown(made)("service")["panic"] is False
    ill(made, 1)
    assert Shown(made)("service")["panic"] is True


def test_who_asks_for_a_service_that_is_not_there_is_told_so() -> None:
    with pytest.raises(NotFound):
        Shown(one())("service", "t")


def test_a_breaker_shows_what_opened_it_and_when_it_is_next_tried() -> None:
    made = two()
    [a, b] = made.instances()
    shown = Shown(made)
    ask(made, BrokenOff())
    breaker = made.breakers.of(a).snapshot()
    assert breaker.next_attempt is not None

    def written(moment: float) -> str:
        at = NOW + timedelta(seconds=moment - shown.clock.now)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    assert shown("circuit_breakers")["circuitBreakers"] == [
        {
            "name": "http://a:1",
            "service": "s",
            "listed": True,
            "state": "open",
            "why": "1 failures in a row",
            "since": written(breaker.since),
            "calls": 1,
            "failures": 1,
            "failuresInARow": 1,
            "opened": 1,
            "nextAttempt": written(breaker.next_attempt),
        },
        {
            "name": "http://b:1",
            "service": "s",
            "listed": True,
            "state": "closed",
            "why": None,
            "since": written(made.breakers.of(b).snapshot().since),
            "calls": 0,
            "failures": 0,
            "failuresInARow": 0,
            "opened": 0,
            "nextAttempt": None,
        },
    ]


def test_a_breaker_whose_instance_has_left_is_shown_as_such_until_it_is_forgotten() -> None:
    made = two()
    gone = made.instances()[0]
    made.instances = lambda: (Instance("s", "http://b:1"),)
    shown = Shown(made)

    def listed() -> list[tuple[str, bool]]:
        found = shown("circuit_breakers")["circuitBreakers"]
        return [(each["name"], each["listed"]) for each in found]

    assert listed() == [("http://a:1", False), ("http://b:1", True)]
    assert [each["url"] for each in shown("service")["instances"]] == ["http://b:1"]
    made.gone(gone)
    assert listed() == [("http://b:1", True)]


# From requests to what is shown of them.


def broken_one(asked: requests.PreparedRequest) -> Answer | Exception:
    return RESET if str(asked.url).startswith(ONE) else Answer()


def before_two(respond: Any = broken_one, **environ: str) -> tuple[FlaskClient, Flask]:
    given = {
        "AUXILIARY_SERVICE_URL": f"{ONE},{OTHER};weight=2",
        "RETRY_BACKOFF": "0",
        "BREAKER_FAILURES_IN_A_ROW": "2",
        "HEALTH_CHECK_INTERVAL": "0.000001",
        "HEALTH_CHECK_UNHEALTHY_AFTER": "2",
        **environ,
    }
    app = app_of(Upstream(respond), **given)
    return app.test_client(), app


def instances(client: FlaskClient) -> dict[str, Any]:
    return {each["url"]: each for each in get(client, f"/services/{NAME}")["instances"]}


def breakers(client: FlaskClient) -> dict[str, Any]:
    return {each["name"]: each for each in get(client, "/circuit-breakers")["circuitBreakers"]}


def test_what_the_requests_found_is_shown_by_every_endpoint_alike() -> None:
    client, _ = before_two()
    assert [client.get("/api/s3/buckets").status_code for _ in range(4)] == [200] * 4

    found, turned = instances(client), breakers(client)
    assert (found[ONE]["state"], found[ONE]["why"]) == ("ejected", "2 failures in a row")
    assert found[ONE]["breaker"] == turned[ONE]["state"] == "open"
    assert (turned[ONE]["failures"], turned[ONE]["failuresInARow"], turned[ONE]["opened"]) == (2, 2, 1)
    assert turned[ONE]["why"] == found[ONE]["why"]
    assert turned[ONE]["since"] < turned[ONE]["nextAttempt"]
    assert found[ONE]["latency"]["count"] == 2
    assert (found[OTHER]["state"], found[OTHER]["why"], found[OTHER]["weight"]) == ("available", None, 2)
    assert (turned[OTHER]["state"], turned[OTHER]["calls"], turned[OTHER]["failures"]) == ("closed", 4, 0)

    health = get(client, "/health")
    assert health["status"] == "degraded"
    assert health["services"][0]["why"] == "1 of 2 instances not available"
    [summary] = get(client, "/services")["services"]
    assert (summary["source"], summary["instances"], summary["available"]) == ("static", 2, 1)


def test_what_the_checks_found_is_shown_too() -> None:
    client, app = before_two()
    [checks] = app.extensions["background"]
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            checks.round(pool)

    found = instances(client)
    assert (found[ONE]["state"], found[ONE]["breaker"]) == ("unhealthy", "closed")
    assert found[ONE]["why"] == "health checks failed: ConnectionError"
    assert (found[ONE]["lastCheck"]["ok"], found[ONE]["lastCheck"]["cause"]) == (False, "ConnectionError")
    assert (found[OTHER]["lastCheck"]["ok"], found[OTHER]["lastCheck"]["cause"]) == (True, None)


def test_the_stats_count_what_was_asked_answered_and_asked_again() -> None:
    client, _ = before_two(
        CACHE_BYTES="0", RETRY_TOKENS="20", RETRY_TOKENS_PER_SUCCESS="0.5", GUNICORN_THREADS="5"
    )
    for _ in range(4):
        client.get("/api/s3/buckets")
    client.get("/api/parameters")
    client.get("/nowhere")
    client.post("/api/s3/buckets")

    found = get(client, "/gateway/stats")

    routes = {each.pop("route"): each for each in found["routes"]}
    latency = routes["/api/s3/buckets"].pop("latency")
    assert routes["/api/s3/buckets"] == {
        "requests": 5,
        "classes": {"2xx": 4, "4xx": 1},
        "errors": {"method_not_allowed": 1},
        # Of the first attempts two were at the ill one.
        "attempts": 6,
    }
    assert latency["count"] == 5
    assert 0 < latency["medianMs"] <= latency["p95Ms"] <= latency["p99Ms"] < 60_000
    assert routes["/api/parameters"]["errors"] == {"validation_failed": 1}
    assert routes["/api/parameters"]["attempts"] == 0
    assert routes["<unmatched>"]["errors"] == {"not_found": 1}
    assert (found["requests"], found["errors"]) == (7, 3)
    [stats] = found["services"]
    assert (stats["name"], stats["attempts"]) == (NAME, 6)
    assert stats["outcomes"] == {"2xx": 4, "bad_gateway": 2}
    assert (stats["retries"], stats["retriesThrottled"]) == ({"bad_gateway": 2}, 0)
    # Twenty less two, and half of one for each success but what was over the brim.
    assert stats["retryTokens"] == {"left": 20.0, "size": 20.0}
    assert set(stats["cache"].values()) == {0}
    assert [(each["url"], each["attempts"], each["outcomes"]) for each in stats["instances"]] == [
        (ONE, 2, {"bad_gateway": 2}),
        (OTHER, 4, {"2xx": 4}),
    ]
    assert found["admission"] == {
        "slots": 5,
        "inService": 0,
        "waitersMost": 64,
        "waiting": 0,
        "turnedAway": 0,
    }
    assert TIME.fullmatch(found["since"])
    assert found["since"] <= found["timestamp"]


def test_the_stats_count_what_the_cache_did_and_whom_the_throttle_stopped() -> None:
    answers: list[Answer | Exception] = [Answer().with_headers(Cache_Control="max-age=60"), *[RESET] * 9]
    client, _ = gateway(
        lambda _: answers.pop(0), RETRY_TOKENS="1", RETRY_BACKOFF="0", BREAKER_FAILURES_IN_A_ROW="100"
    )
    statuses = [client.get("/api/s3/buckets").status_code for _ in range(3)]
    statuses += [client.get("/api/parameters/list").status_code for _ in range(2)]

    [stats] = get(client, "/gateway/stats")["services"]

    assert statuses == [200, 200, 200, 502, 502]
    assert (stats["cache"]["miss"], stats["cache"]["hit"], stats["cache"]["collapsed"]) == (1, 2, 0)
    assert (stats["retries"], stats["retriesThrottled"]) == ({"bad_gateway": 1}, 2)
    assert stats["retryTokens"] == {"left": 0.0, "size": 1.0}


@pytest.mark.parametrize(("room", "place"), [("GUNICORN_THREADS", "process"), ("BULKHEAD", "share")])
def test_the_stats_show_who_is_inside_and_who_was_turned_away(
    room: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("main_api.parts.WAITING_ROOM", 0)
    seen: list[Any] = []

    def respond(_: object) -> Answer:
        seen.append(get(app.test_client(), "/gateway/stats"))
        assert app.test_client().get("/api/s3/buckets?prefix=inner").status_code == 503
        return Answer()

    app = app_of(Upstream(respond), **{room: "1"})
    assert app.test_client().get("/api/s3/buckets").status_code == 200

    after = get(app.test_client(), "/gateway/stats")
    assert seen[0]["admission"]["inService"] == 1
    assert after["admission"]["inService"] == 0
    away = (after["admission"]["turnedAway"], after["services"][0]["turnedAway"])
    assert away == ((1, 0) if place == "process" else (0, 1))


def test_two_apps_of_one_process_count_for_themselves() -> None:
    one_client, _ = gateway()
    other_client, _ = gateway()

    one_client.get("/nowhere")

    assert get(one_client, "/gateway/stats")["errors"] == 1
    assert get(other_client, "/gateway/stats")["errors"] == 0


def test_the_routes_are_those_of_the_app_with_their_links_and_settings() -> None:
    client, app = before_two(BULKHEAD="3")

    found = get(client, "/routes")["routes"]

    assert found == [
        {
            "name": route.name,
            "rule": route.rule,
            "methods": list(route.methods),
            "links": [{"name": link.name, "settings": dict(link.settings)} for link in pipeline.chain],
        }
        for route, pipeline in app.extensions["routes"]
    ]
    assert {"/routes", "/api/s3/buckets", "/docs/swagger-ui.css"} <= {each["rule"] for each in found}
    [buckets] = [each for each in found if each["rule"] == "/api/s3/buckets"]
    assert [each["name"] for each in buckets["links"]] == [
        "query",
        "admission",
        "cache",
        "bulkhead",
        "retry",
        "balance",
        "breaker",
        "send",
    ]


def test_no_other_answer_names_an_address() -> None:
    client, app = before_two(RESET)
    for _ in range(3):
        client.get("/api/s3/buckets")
    rules = [route.rule for route, _ in app.extensions["routes"] if "<" not in route.rule]
    others = [rule for rule in rules if not reserved(rule)]

    assert len(others) > 8
    for rule in (*others, "/api/parameters?name=a", "/health/x", "/services/x"):
        found = client.get(rule)
        for url in (ONE, OTHER):
            assert url.encode() not in found.data
            assert url not in str(found.headers)
    assert ONE in client.get("/circuit-breakers").text


def test_no_secret_is_in_any_of_them() -> None:
    client, _ = before_two(
        INTERNAL_TOKEN="canary-of-the-token",
        REDIS_URL="redis://:canary@127.0.0.1:1/0",
        CONSUL_HTTP_TOKEN="canary",
    )

    for target in TARGETS:
        assert "canary" not in client.get(target).text


def test_thresholds_of_the_checks_are_the_services_own() -> None:
    made = service(answer, "http://a:1", health=HealthThresholds(unhealthy_after=1))
    ill(made, 0, times=1)

    assert Shown(made)("service_health")["status"] == "unhealthy"


def test_parts_without_services_have_nothing_to_show() -> None:
    shown = Shown()

    assert shown("services")["services"] == shown("circuit_breakers")["circuitBreakers"] == []
    assert shown("stats")["services"] == []
