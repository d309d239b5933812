"""``X-Request-Timeout-Ms`` on the way from the header to the 504."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import g
from flask.testing import FlaskClient

from auxiliary_service.blueprints.waits import DEFAULT_SECONDS, MOST_SECONDS, seconds_left
from auxiliary_service.errors import InvalidRequest

Start = Callable[..., FlaskClient]
LONG = 5.0


@pytest.fixture
def hanging(aws: Any) -> Iterator[threading.Event]:
    """Let AWS answer nothing before the event is set."""
    go = threading.Event()

    def answer(operation: str, arguments: dict[str, Any]) -> Any:
        assert go.wait(LONG)
        return {}

    aws.answer = answer
    yield go
    go.set()


def left(client: FlaskClient, header: str | None) -> float:
    headers = {} if header is None else {"X-Request-Timeout-Ms": header}
    with client.application.test_request_context("/aws/s3/buckets", headers=headers):
        g.started = time.perf_counter()
        return seconds_left()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, DEFAULT_SECONDS), ("2500", 2.5), ("0", 0), ("60001", MOST_SECONDS), ("9" * 15, MOST_SECONDS)],
)
def test_the_header_is_milliseconds(start: Start, header: str | None, seconds: float) -> None:
    assert left(start(), header) == pytest.approx(seconds, abs=0.1)


def test_what_was_used_up_before_is_gone(start: Start) -> None:
    app = start().application
    for headers, seconds in (({"X-Request-Timeout-Ms": "2000"}, 2.0), ({}, DEFAULT_SECONDS)):
        with app.test_request_context("/", headers=headers):
            g.started = time.perf_counter() - 1.5
            assert seconds_left() == pytest.approx(seconds - 1.5, abs=0.1)


@pytest.mark.parametrize("header", ["", "-1", "1.5", "soon", "100, 200", "²", "1e3", "9" * 16, "+5"])
def test_what_is_no_number_is_refused(start: Start, header: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        left(start(), header)
    assert caught.value.details[0]["field"] == "X-Request-Timeout-Ms"


@pytest.mark.parametrize(
    "path", ["/aws/s3/buckets", "/aws/parameters/list?limit=5", "/aws/parameters?name=a"]
)
def test_a_hanging_aws_is_504_within_the_wait(start: Start, hanging: threading.Event, path: str) -> None:
    client = start()
    began = time.monotonic()
    answer = client.get(path, headers={"X-Request-Timeout-Ms": "150"})
    assert 0.1 < time.monotonic() - began < 1
    assert (answer.status_code, answer.json["code"]) == (504, "aws_timeout")


@pytest.mark.parametrize("path", ["/aws/s3/buckets", "/aws/parameters/list"])
def test_a_whole_list_that_does_not_fit_names_the_way_out(
    start: Start, hanging: threading.Event, path: str
) -> None:
    answer = start().get(path, headers={"X-Request-Timeout-Ms": "60"})
    assert answer.status_code == 504
    assert "limit" in answer.json["error"]
    assert "nextToken" in answer.json["error"]
    single = start().get("/aws/parameters?name=a", headers={"X-Request-Timeout-Ms": "60"})
    assert "limit" not in single.json["error"]


@pytest.mark.parametrize("header", ["0", "49"])
def test_with_less_than_50_ms_aws_is_not_asked(start: Start, aws: Any, header: str) -> None:
    answer = start().get("/aws/s3/buckets", headers={"X-Request-Timeout-Ms": header})
    assert (answer.status_code, answer.json["code"]) == (504, "aws_timeout")
    assert aws.calls == []


def test_with_a_limit_the_pages_read_in_time_are_the_answer(
    start: Start, aws: Any, parameter: Callable[..., Any]
) -> None:
    go = threading.Event()

    def answer(_: str, arguments: dict[str, Any]) -> Any:
        if "NextToken" in arguments:
            assert go.wait(LONG)
            return {}
        return {"Parameters": [parameter("/myproject/a")], "NextToken": "second"}

    aws.answer = answer
    client = start()
    partial = client.get("/aws/parameters/list?limit=100", headers={"X-Request-Timeout-Ms": "300"})
    go.set()
    assert (partial.status_code, partial.json["count"]) == (200, 1)
    aws.answer = lambda *_: {"Parameters": [parameter("/myproject/b")]}
    rest = client.get("/aws/parameters/list", query_string={"nextToken": partial.json["nextToken"]})
    assert [item["name"] for item in rest.json["data"]] == ["/myproject/b"]
    assert aws.calls[-1][1]["NextToken"] == "second"


def test_eight_concurrent_requests_are_one_call_each_with_its_own_id(
    start: Start, aws: Any, hanging: threading.Event, joined: threading.Semaphore
) -> None:
    app = start().application

    def ask(number: int) -> Any:
        return app.test_client().get("/aws/s3/buckets", headers={"X-Request-ID": f"id-{number}"})

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        for _ in asked:
            assert joined.acquire(timeout=LONG)
        hanging.set()
        answers = [each.result(LONG) for each in asked]
    assert len(aws.calls) == 1
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["X-Request-ID"] for answer in answers} == {f"id-{number}" for number in range(8)}


def test_decrypted_and_redacted_reads_are_not_shared(
    start: Start, aws: Any, given: Any, parameter: Callable[..., Any], joined: threading.Semaphore
) -> None:
    go = threading.Event()

    def answer(_: str, arguments: dict[str, Any]) -> Any:
        assert go.wait(LONG)
        value = "plain" if arguments["WithDecryption"] else "cipher"
        return {"Parameter": parameter("/myproject/a", Type="SecureString", Value=value)}

    aws.answer = answer
    app = start(INTERNAL_TOKEN=given.token, ALLOW_DECRYPTION="true").application
    headers = given.headers("parameters:read parameters:decrypt")

    def ask(decrypt: str) -> Any:
        path = f"/aws/parameters?name=a&decrypt={decrypt}"
        return json.loads(app.test_client().get(path, headers=headers).data)["data"]["value"]

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, decrypt) for decrypt in ("true", "false")]
        for _ in asked:
            assert joined.acquire(timeout=LONG)
        go.set()
        assert [each.result(LONG) for each in asked] == ["plain", None]
    assert len(aws.calls) == 2
