"""Metrics as Prometheus scrapes them, each test under a service name of its own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from prometheus_client import Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from chassis.errors import BadRequest, UriTooLong

Counted = Callable[..., float]

DURATION = "http_request_duration_seconds"
BUCKETS = ["0.1", "0.3", "0.5", "0.7", "1.0", "3.0", "5.0", "7.0", "10.0", "+Inf"]
PROCESS = [
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
]


def test_a_request_is_counted_and_timed_under_exactly_these_names_and_labels(
    fresh: FlaskClient, service: str
) -> None:
    fresh.get("/plain")
    families = {family.name: family for family in text_string_to_metric_families(fresh.get("/metrics").text)}

    [counter] = [
        sample
        for sample in families["http_requests"].samples
        if sample.labels == {"method": "GET", "route": "/plain", "status_code": "200", "app": service}
    ]
    assert families["http_requests"].type == "counter"
    assert counter.name == "http_requests_total"
    assert families[DURATION].type == "histogram"
    buckets = [
        sample.labels
        for sample in families[DURATION].samples
        if sample.name == f"{DURATION}_bucket"
        and (sample.labels["app"], sample.labels["route"]) == (service, "/plain")
    ]
    assert [labels["le"] for labels in buckets] == BUCKETS
    assert all(set(labels) == {"method", "route", "status_code", "app", "le"} for labels in buckets)


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("GET", "/plain", {"method": "GET", "route": "/plain", "status_code": "200"}),
        ("HEAD", "/plain", {"method": "HEAD", "route": "/plain", "status_code": "200"}),
        ("OPTIONS", "/plain", {"method": "OPTIONS", "route": "/plain", "status_code": "200"}),
        ("GET", "/sized/1234", {"method": "GET", "route": "/sized/<int:size>", "status_code": "200"}),
        ("GET", "/nowhere", {"method": "GET", "route": "<unmatched>", "status_code": "404"}),
        ("POST", "/plain", {"method": "POST", "route": "/plain", "status_code": "405"}),
        ("DELETE", "/sized/7", {"method": "DELETE", "route": "/sized/<int:size>", "status_code": "405"}),
        ("PROPFIND", "/plain", {"method": "<other>", "route": "/plain", "status_code": "405"}),
        ("get", "/plain", {"method": "GET", "route": "/plain", "status_code": "200"}),
        ("INVENTED", "/nowhere", {"method": "<other>", "route": "<unmatched>", "status_code": "404"}),
        ("GET", "/bug", {"method": "GET", "route": "/bug", "status_code": "500"}),
        ("GET", "/probe", {"method": "GET", "route": "/probe", "status_code": "200"}),
    ],
)
def test_every_answer_is_counted_once_under_its_rule(
    fresh: FlaskClient, counted: Counted, method: str, path: str, labels: dict[str, str]
) -> None:
    count, timed = counted(**labels), counted(f"{DURATION}_count", **labels)
    fresh.open(path, method=method)

    assert counted(**labels) == count + 1
    assert counted(f"{DURATION}_count", **labels) == timed + 1


def test_no_path_or_method_that_a_client_invents_becomes_a_series(fresh: FlaskClient) -> None:
    fresh.open("/invented-path", method="INVENTEDMETHOD")
    fresh.get("/sized/4321")
    text = fresh.get("/metrics").text

    assert "invented" not in text.lower()
    assert "/sized/4321" not in text


@pytest.mark.parametrize("path", ["/", "/plain", "/nowhere"])
def test_what_the_server_refused_is_counted_as_unparsed(
    fresh: FlaskClient, counted: Counted, path: str
) -> None:
    labels = {"method": "<other>", "route": "<unparsed>", "status_code": "414"}
    before = counted(**labels)
    fresh.get(path, environ_overrides={"chassis.refusal": UriTooLong()})

    assert counted(**labels) == before + 1


def test_a_refusal_counts_for_no_route_and_no_known_method(fresh: FlaskClient, counted: Counted) -> None:
    before = counted(route="/plain"), counted(method="GET", status_code="400")
    fresh.get("/plain", environ_overrides={"chassis.refusal": BadRequest()})

    assert (counted(route="/plain"), counted(method="GET", status_code="400")) == before


def streamed() -> Response:
    def parts() -> Iterator[bytes]:
        yield b"one"
        yield b"two"

    return Response(parts())


def test_a_streamed_answer_is_counted_when_it_is_closed(
    make_app: Callable[..., Flask], counted: Counted, service: str
) -> None:
    before = counted(route="/streamed")
    answer = make_app({"/streamed": streamed}, service=service).test_client().get("/streamed", buffered=False)
    assert counted(route="/streamed") == before

    answer.close()
    assert counted(route="/streamed", method="GET", status_code="200") == before + 1


def test_head_of_a_streamed_answer_is_counted_once(
    make_app: Callable[..., Flask], counted: Counted, service: str
) -> None:
    before = counted(route="/streamed", method="HEAD")
    make_app({"/streamed": streamed}, service=service).test_client().head("/streamed").close()

    assert counted(route="/streamed", method="HEAD") == before + 1


def test_each_answer_is_told_of_once_with_its_rule_status_and_seconds(make_app: Callable[..., Flask]) -> None:
    told: list[tuple[str, int, float]] = []
    app = make_app({"/streamed": streamed}, told=lambda *facts: told.append(facts))
    client = app.test_client()
    answer = client.get("/streamed", buffered=False)
    assert told == []
    answer.close()
    client.get("/sized/3?query=1")
    client.post("/plain")
    client.get("/nowhere")
    client.get("/", environ_overrides={"chassis.refusal": UriTooLong()})

    assert [facts[:2] for facts in told] == [
        ("/streamed", 200),
        ("/sized/<int:size>", 200),
        ("/plain", 405),
        ("<unmatched>", 404),
        ("<unparsed>", 414),
    ]
    assert all(0 < seconds < 60 for *_, seconds in told)


@pytest.mark.parametrize("query", ["?name[]=x", "?name[]=http_requests_total", "?name%5B%5D=", "?%ff=%00"])
def test_a_query_changes_nothing(fresh: FlaskClient, query: str) -> None:
    fresh.get("/plain")
    answer = fresh.get(f"/metrics{query}")

    assert answer.status_code == 200
    assert "http_requests_total{" in answer.text
    assert "http_request_duration_seconds_bucket{" in answer.text


def test_the_answer_is_text_that_nobody_stores(fresh: FlaskClient) -> None:
    answer = fresh.get("/metrics")

    assert answer.content_type.startswith("text/plain; version=")
    assert answer.headers["Cache-Control"] == "no-store"
    assert fresh.post("/metrics").status_code == 405


def test_open_metrics_come_to_who_asks_for_them(fresh: FlaskClient) -> None:
    fresh.get("/plain")
    answer = fresh.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.content_type.startswith("application/openmetrics-text")
    assert {"http_requests", DURATION} <= {family.name for family in open_metrics(answer.text)}  # type: ignore[no-untyped-call]


def test_a_services_own_metrics_are_served_beside(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    own = Counter("of_the_service", "Counts something.", registry=app.extensions["registry"])
    own.inc(3)

    assert "of_the_service_total 3.0" in app.test_client().get("/metrics").text


def test_two_apps_of_one_process_do_not_collide(
    make_app: Callable[..., Flask], counted: Counted, service: str
) -> None:
    before = counted(route="/plain")
    for _ in range(2):
        make_app(service=service).test_client().get("/plain")

    assert counted(route="/plain") == before + 2


def scraped(make_app: Callable[..., Flask], folder: Path) -> dict[str, dict[str, float]]:
    text = make_app(folder=folder).test_client().get("/metrics").text
    assert text.count("# HELP process_resident_memory_bytes ") <= 1
    return {
        name: {
            sample.labels["pid"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }
        for name in PROCESS
    }


def test_every_living_worker_tells_its_process_figures(
    make_app: Callable[..., Flask], tmp_path: Path
) -> None:
    pids = {str(os.getpid()), str(os.getppid())}
    for pid in pids:
        (tmp_path / f"worker_{pid}.pid").touch()
    figures = scraped(make_app, tmp_path)

    for name in PROCESS:
        assert set(figures[name]) >= {str(os.getpid())}
        assert set(figures[name]) <= pids
        assert figures[name][str(os.getpid())] > 0
    assert set(figures["process_cpu_seconds_total"]) == pids


def test_a_worker_that_is_gone_and_other_files_tell_nothing(
    make_app: Callable[..., Flask], tmp_path: Path
) -> None:
    for name in ("worker_999999999.pid", "worker_abc.pid", "counter_1.db", "notes.txt"):
        (tmp_path / name).touch()

    assert not any(scraped(make_app, tmp_path).values())


def test_a_folder_that_is_not_there_yet_is_no_fault(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    assert not any(scraped(make_app, tmp_path / "missing").values())
