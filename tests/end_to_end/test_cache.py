"""The cache between real processes: asked once, answered often, and still there when AWS is not."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.end_to_end import stand_in
from tests.end_to_end.processes import Answer, Server, request, servers, until
from tests.end_to_end.stand_in import gateway_before

OBJECT = b'{"success":true,"data":[],"count":0}'
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Service-Version: 9.9.9\r\n"
    b'ETag: W/"one"\r\nCache-Control: max-age=%d, stale-if-error=300\r\n'
)


def answer(max_age: int) -> bytes:
    return stand_in.body(OBJECT, HEAD % max_age)


def status_of(found: Answer) -> str:
    return str(found.headers["Cache-Status"])


def test_fifty_who_ask_at_once_cost_one_call_and_each_has_its_own_id() -> None:
    asked: list[bool] = []
    go = threading.Event()

    def slow(client: socket.socket, over: threading.Event) -> None:
        while stand_in.read_head(client):
            asked.append(True)
            go.wait(20)
            client.sendall(answer(0))

    with gateway_before(slow, GUNICORN_THREADS="50") as gateway, ThreadPoolExecutor(50) as threads:
        asking = [
            threads.submit(request, gateway.port, "/api/s3/buckets", X_Request_ID=f"asker-{number}")
            for number in range(50)
        ]
        until(lambda: len(asked) == 1, "one is asking")
        until(lambda: in_service(gateway) == 50, "all are waiting")
        go.set()
        answers = [each.result(20) for each in asking]

        assert len(asked) == 1
        assert [each.status for each in answers] == [200] * 50
        assert [each.headers["X-Request-ID"] for each in answers] == [f"asker-{n}" for n in range(50)]
        assert sum("collapsed" in status_of(each) for each in answers) == 49


def in_service(gateway: Server) -> int:
    text = request(gateway.port, "/metrics").body.decode()
    return int(float(text.partition("\nadmission_in_service ")[2].partition("\n")[0]))


def test_when_the_one_that_asks_fails_one_other_asks_and_no_more() -> None:
    asked: list[bool] = []
    go = threading.Event()

    def breaks_first(client: socket.socket, over: threading.Event) -> None:
        while stand_in.read_head(client):
            asked.append(True)
            go.wait(20)
            if len(asked) == 1:
                return
            client.sendall(answer(0))

    with (
        gateway_before(breaks_first, GUNICORN_THREADS="20", RETRY_ATTEMPTS="1") as gateway,
        ThreadPoolExecutor(20) as threads,
    ):
        asking = [threads.submit(request, gateway.port, "/api/s3/buckets") for _ in range(20)]
        until(lambda: in_service(gateway) == 20, "all are waiting")
        go.set()
        statuses = sorted(each.result(20).status for each in asking)

        assert len(asked) == 2
        assert statuses == [200] * 19 + [502]


def test_a_fresh_answer_is_given_without_asking() -> None:
    asked: list[bool] = []

    def behave(client: socket.socket, over: threading.Event) -> None:
        while stand_in.read_head(client):
            asked.append(True)
            client.sendall(answer(60))

    with gateway_before(behave) as gateway:
        first, second = (request(gateway.port, "/api/s3/buckets") for _ in range(2))
        anew = request(gateway.port, "/api/s3/buckets", Cache_Control="no-cache")
        nothing = request(gateway.port, "/api/parameters/list", Cache_Control="only-if-cached")

    assert status_of(
        first
    ) == "main-api; fwd=uri-miss; fwd-status=200; stored; ttl=60" or "ttl=59" in status_of(first)
    assert status_of(second).startswith("main-api; hit; ttl=")
    assert int(second.headers["Age"]) <= 2
    assert second.json["data"] == first.json["data"]
    assert "fwd=request" in status_of(anew)
    assert nothing.status == 504
    assert len(asked) == 2


@pytest.fixture(scope="module")
def pair() -> Iterator[dict[str, Server]]:
    with servers("aws", "auxiliary", "gateway", BREAKER_OPEN_SECONDS="0.5") as running:
        until(lambda: request(running["gateway"].port, "/api/health/ready").status == 200, "ready")
        yield running


@pytest.mark.parametrize(
    ("gone", "details"),
    [
        pytest.param("aws", {"aws_unreachable", "aws_timeout"}, id="AWS"),
        pytest.param(
            "auxiliary", {"upstream_unavailable", "bad_gateway", "circuit_open"}, id="the auxiliary"
        ),
    ],
)
def test_the_last_answer_stands_in_while_something_is_gone(
    pair: dict[str, Server], gone: str, details: set[str]
) -> None:
    port = pair["gateway"].port
    before = request(port, "/api/parameters?name=database/host")
    assert before.status == 200
    pair[gone].stop()
    try:
        for _ in range(12):
            after = request(port, "/api/parameters?name=database/host")
            assert after.status == 200
            assert after.json["data"] == before.json["data"]
            assert "; fwd=stale; detail=" in status_of(after)
            assert status_of(after).partition("detail=")[2].partition(";")[0] in details
            assert int(after.headers["Age"]) >= 0
        anew = request(port, "/api/parameters?name=database/host", Cache_Control="no-cache")
        assert anew.status in (502, 503, 504)
        assert request(port, "/api/parameters?name=never/asked").status in (502, 503, 504)
    finally:
        pair[gone].start()
    until(
        lambda: "fwd-status" in (request(port, "/api/parameters?name=database/host").headers["Cache-Status"]),
        "the service is asked again",
    )
