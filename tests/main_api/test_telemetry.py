"""The gateway's figures: each method shows in the exposition, under its name and labels, of all workers."""

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from main_api.telemetry import STATES, Telemetry
from tests.main_api.support import Answer, gateway

FOLDER = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
INSTANCE = "http://a:1"

Samples = dict[str, float]
Record = Callable[[Telemetry, str], None]


def exposed(folder: Path = FOLDER) -> Samples:
    """Give what ``/metrics`` would: every sample of all workers by its name and labels, as written."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]  # has no types
    lines = generate_latest(registry).decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


@pytest.fixture
def service(request: pytest.FixtureRequest) -> str:
    """A service that no other test has: the figures of a process are one, whatever registry they are on."""
    return re.sub(r"[^a-z_]+", "-", request.node.name.lower())


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(CollectorRegistry())


def of(samples: Samples, service: str) -> Samples:
    """Leave those of one service, by its name taken out."""
    return {
        name.replace(service, "S"): value
        for name, value in samples.items()
        if f'"{service}"' in name and "_created" not in name
    }


def refuse_twice(telemetry: Telemetry, service: str) -> None:
    telemetry.refused(service)
    telemetry.refused(service)


def retry(telemetry: Telemetry, service: str) -> None:
    telemetry.retried(service, "upstream_unavailable")
    telemetry.retried(service, "upstream_unavailable")
    telemetry.retried(service, "bad_gateway")


def lose_redis(telemetry: Telemetry, service: str) -> None:
    # The states are of the whole process; the name of a service in their place keeps the samples apart.
    telemetry.redis(service)
    telemetry.redis(service)


def spend(telemetry: Telemetry, service: str) -> None:
    telemetry.tokens(service, 50.0)
    telemetry.tokens(service, 48.5)


def fly(telemetry: Telemetry, service: str) -> None:
    for change in (1, 1, 1, -1):
        telemetry.in_flight(service, INSTANCE, change)


def trip(telemetry: Telemetry, service: str) -> None:
    for state in ("open", "half_open", "open"):
        telemetry.breaker(service, INSTANCE, state, state)


def fall_ill(telemetry: Telemetry, service: str) -> None:
    telemetry.healthy(service, INSTANCE, True)
    telemetry.healthy(service, "http://b:1", True)
    telemetry.healthy(service, "http://b:1", False)


ONE = f'instance="{INSTANCE}",service="S"'


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (refuse_twice, {'admission_refused_total{place="S"}': 2}),
        (
            retry,
            {
                'upstream_retries_total{reason="bad_gateway",service="S"}': 1,
                'upstream_retries_total{reason="upstream_unavailable",service="S"}': 2,
            },
        ),
        (Telemetry.throttled, {'upstream_retries_throttled_total{service="S"}': 1}),
        (lose_redis, {'redis_changes_total{state="S"}': 2}),
        (spend, {'upstream_retry_tokens{service="S"}': 48.5}),
        (fly, {f"upstream_in_flight{{{ONE}}}": 2}),
        (
            trip,
            {
                f"circuit_breaker_state{{{ONE}}}": 2,
                f'circuit_breaker_changes_total{{{ONE},state="open"}}': 2,
                f'circuit_breaker_changes_total{{{ONE},state="half_open"}}': 1,
            },
        ),
        (
            fall_ill,
            {
                f"upstream_instance_healthy{{{ONE}}}": 1,
                'upstream_instance_healthy{instance="http://b:1",service="S"}': 0,
            },
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_recorded_is_exposed_under_this_name_and_these_labels(
    telemetry: Telemetry, service: str, record: Record, shown: Samples
) -> None:
    record(telemetry, service)

    assert of(exposed(), service) == shown


def test_an_attempt_is_counted_and_timed_by_service_and_outcome(telemetry: Telemetry, service: str) -> None:
    telemetry.upstream(service, INSTANCE, "2xx", 0.03)
    telemetry.upstream(service, INSTANCE, "2xx", 4.0)
    telemetry.upstream(service, INSTANCE, "gateway_timeout", 20.0)

    found = of(exposed(), service)
    family = "upstream_request_duration_seconds"
    assert found[f'{family}_count{{outcome="2xx",service="S"}}'] == 2
    assert found[f'{family}_sum{{outcome="2xx",service="S"}}'] == pytest.approx(4.03)
    assert found[f'{family}_bucket{{le="0.05",outcome="2xx",service="S"}}'] == 1
    assert found[f'{family}_bucket{{le="5.0",outcome="2xx",service="S"}}'] == 2
    assert found[f'{family}_bucket{{le="10.0",outcome="gateway_timeout",service="S"}}'] == 0
    assert found[f'{family}_bucket{{le="+Inf",outcome="gateway_timeout",service="S"}}'] == 1


@pytest.mark.parametrize(
    ("record", "name"),
    [(Telemetry.in_service, "admission_in_service"), (Telemetry.waiting, "admission_waiting")],
)
def test_slots_and_queue_rise_and_fall(
    telemetry: Telemetry, record: Callable[[Telemetry, int], None], name: str
) -> None:
    begun = exposed().get(name, 0)

    seen = []
    for change in (1, 1, -1, -1):
        record(telemetry, change)
        seen.append(exposed()[name] - begun)

    assert seen == [1, 2, 1, 0]


@pytest.mark.parametrize(("state", "number"), [("closed", 0), ("half_open", 1), ("open", 2)])
def test_the_worse_a_breakers_state_the_higher_its_number(
    telemetry: Telemetry, service: str, state: str, number: int
) -> None:
    telemetry.breaker(service, INSTANCE, state, state)

    assert of(exposed(), service)[f"circuit_breaker_state{{{ONE}}}"] == number


def test_an_instance_that_is_listed_has_a_closed_breaker() -> None:
    registry = CollectorRegistry()

    Telemetry(registry).listed("listed-one", INSTANCE)

    labels = {"service": "listed-one", "instance": INSTANCE}
    assert registry.get_sample_value("circuit_breaker_state", labels) == STATES["closed"]


def test_an_instance_that_is_gone_is_shown_as_ill_no_longer() -> None:
    registry = CollectorRegistry()
    telemetry, labels = Telemetry(registry), {"service": "gone-one", "instance": INSTANCE}
    telemetry.breaker("gone-one", INSTANCE, "open", "open")
    telemetry.healthy("gone-one", INSTANCE, False)
    telemetry.upstream("gone-one", INSTANCE, "2xx", 1.0)

    telemetry.forget("gone-one", INSTANCE)

    assert registry.get_sample_value("circuit_breaker_state", labels) == STATES["closed"]
    assert registry.get_sample_value("upstream_instance_healthy", labels) == 1
    assert telemetry.tally.service("gone-one").instances == {}


def series(service: str) -> dict[str, set[str]]:
    """Give the instances that each metric has a series of."""
    found: dict[str, set[str]] = {}
    for name in of(exposed(), service):
        metric, _, labels = name.partition("{")
        found.setdefault(metric, set()).update(re.findall('instance="([^"]*)"', labels))
    return found


def test_only_so_many_instances_have_series_of_their_own_and_the_others_share_one(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("main_api.telemetry.INSTANCES_MOST", 5)
    telemetry = Telemetry(CollectorRegistry())
    urls = [f"http://{number}:1" for number in range(40)]

    for url in urls:
        telemetry.listed(service, url)
        telemetry.healthy(service, url, True)
        telemetry.in_flight(service, url, 1)
        telemetry.breaker(service, url, "open", "open")

    metrics = (
        "circuit_breaker_changes_total",
        "circuit_breaker_state",
        "upstream_in_flight",
        "upstream_instance_healthy",
    )
    assert series(service) == {metric: {*urls[:5], "other"} for metric in metrics}
    samples = of(exposed(), service)
    assert samples['upstream_in_flight{instance="other",service="S"}'] == 35
    assert samples['upstream_in_flight{instance="http://0:1",service="S"}'] == 1

    for url in reversed(urls):
        telemetry.in_flight(service, url, -1)
        telemetry.forget(service, url)

    flying = {name: value for name, value in of(exposed(), service).items() if "in_flight" in name}
    assert len(flying) == 6
    assert set(flying.values()) == {0}
    telemetry.listed(service, "http://new:1")
    assert series(service) == {metric: {*urls[:5], "other"} for metric in metrics}


def test_by_default_a_thousand_instances_have_series_of_their_own() -> None:
    from main_api.telemetry import INSTANCES_MOST

    assert INSTANCES_MOST == 1000


@pytest.mark.usefixtures("switching")
def test_instances_that_come_at_the_same_time_do_not_change_their_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever counts up under one label counts down under it."""
    monkeypatch.setattr("main_api.telemetry.INSTANCES_MOST", 1)
    telemetry = Telemetry(CollectorRegistry())
    urls = ["http://a:1", "http://b:1"]
    together = threading.Barrier(4)

    def ask(thread: int) -> list[tuple[str, str]]:
        found = []
        for number in range(60):
            if not together.wait(10):
                telemetry._labelled.clear()
            together.wait(10)
            asked = [urls[thread % 2], *urls]
            found += [(f"{number} {url}", telemetry._label("s", url)) for url in asked]
        return found

    with ThreadPoolExecutor(4) as threads:
        given = {each for found in threads.map(ask, range(4)) for each in found}

    assert len(given) == 60 * 2
    assert len([label for _, label in given if label == "other"]) == 60


def test_a_change_that_is_told_late_is_counted_and_does_not_hide_the_state() -> None:
    registry = CollectorRegistry()
    telemetry, service = Telemetry(registry), "told-late"

    telemetry.breaker(service, INSTANCE, "open", "open")
    telemetry.breaker(service, INSTANCE, "half_open", "open")

    labels = {"service": service, "instance": INSTANCE}
    assert registry.get_sample_value("circuit_breaker_changes_total", {**labels, "state": "half_open"}) == 1
    assert registry.get_sample_value("circuit_breaker_state", labels) == 2


def test_the_states_are_those_of_the_breaker() -> None:
    from main_api.policies.circuit_breaker import State

    assert {state.value for state in State} == set(STATES)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Have the figures as they stand be those of one more worker, in a folder of its own."""
    pids = iter(range(1, 9))

    def leave() -> None:
        pid = next(pids)
        for file in FOLDER.glob(f"*_{os.getpid()}.db"):
            shutil.copy(file, tmp_path / file.name.replace(f"_{os.getpid()}.db", f"_{pid}.db"))

    return leave  # type: ignore[return-value]


def test_of_several_workers_each_gauge_shows_what_its_name_says(
    telemetry: Telemetry, service: str, workers: Callable[[], None], tmp_path: Path
) -> None:
    telemetry.tokens(service, 50.0)
    telemetry.breaker(service, INSTANCE, "open", "open")
    telemetry.healthy(service, INSTANCE, False)
    telemetry.in_flight(service, INSTANCE, 3)
    workers()
    telemetry.tokens(service, 7.5)
    telemetry.breaker(service, INSTANCE, "closed", "closed")
    telemetry.healthy(service, INSTANCE, True)
    telemetry.in_flight(service, INSTANCE, -1)
    workers()
    telemetry.tokens(service, 20.0)
    telemetry.breaker(service, INSTANCE, "half_open", "half_open")
    workers()

    found = of(exposed(tmp_path), service)
    assert found['upstream_retry_tokens{service="S"}'] == 7.5
    assert found[f"circuit_breaker_state{{{ONE}}}"] == 2
    assert found[f"upstream_instance_healthy{{{ONE}}}"] == 0
    assert found[f"upstream_in_flight{{{ONE}}}"] == 3 + 2 + 2


def test_slots_and_queue_of_several_workers_are_their_sum(
    telemetry: Telemetry, workers: Callable[[], None], tmp_path: Path
) -> None:
    begun = exposed()
    telemetry.in_service(3)
    telemetry.waiting(5)
    workers()
    workers()
    telemetry.in_service(-3)
    telemetry.waiting(-5)

    found = exposed(tmp_path)
    assert found["admission_in_service"] == 2 * (begun.get("admission_in_service", 0) + 3)
    assert found["admission_waiting"] == 2 * (begun.get("admission_waiting", 0) + 5)


# From a request to /metrics.


def test_a_request_leaves_no_slot_and_no_attempt_behind() -> None:
    def shown() -> tuple[float | None, ...]:
        samples = exposed()
        return samples.get("admission_in_service"), samples.get(flying)

    flying = 'upstream_in_flight{instance="http://leaves-nothing.test",service="auxiliary-service"}'
    client, _ = gateway(Answer(), AUXILIARY_SERVICE_URL="http://leaves-nothing.test")
    begun = exposed()["admission_in_service"]

    assert client.get("/api/s3/buckets").status_code == 200
    assert shown() == (begun, 0)


def test_while_a_request_is_answered_it_holds_a_slot_and_an_attempt() -> None:
    seen: list[Samples] = []

    def respond(_: object) -> Answer:
        seen.append(exposed())
        return Answer()

    client, _ = gateway(respond, AUXILIARY_SERVICE_URL="http://holds.test")
    begun = exposed()["admission_in_service"]

    client.get("/api/s3/buckets")

    [found] = seen
    assert found["admission_in_service"] == begun + 1
    assert found['upstream_in_flight{instance="http://holds.test",service="auxiliary-service"}'] == 1


def test_retries_tokens_and_a_breaker_that_opens_are_in_the_metrics() -> None:
    import requests

    client, _ = gateway(
        requests.ConnectionError("reset"),
        AUXILIARY_SERVICE_URL="http://trips.test",
        RETRY_ATTEMPTS="2",
        RETRY_BACKOFF="0",
        RETRY_TOKENS="10",
        BREAKER_FAILURES_IN_A_ROW="2",
    )
    name = 'upstream_retries_total{reason="bad_gateway",service="auxiliary-service"}'
    begun = exposed().get(name, 0)

    assert client.get("/api/s3/buckets").status_code == 502

    text = client.get("/metrics").get_data(as_text=True)
    labels = 'instance="http://trips.test",service="auxiliary-service"'
    assert f"{name} {begun + 1}" in text
    assert f"circuit_breaker_state{{{labels}}} 2.0" in text
    assert f'circuit_breaker_changes_total{{{labels},state="open"}} 1.0' in text
    assert 'upstream_retry_tokens{service="auxiliary-service"} 9.0' in text
