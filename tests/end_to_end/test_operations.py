"""The operations endpoints of real processes: on which port they are, and that they tell what happened."""

import itertools
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.end_to_end import stand_in
from tests.end_to_end.processes import HOST, Server, free_port, request, servers, until
from tests.end_to_end.stand_in import body

NAME = "auxiliary-service"
OBJECT = b'{"success":true,"data":[],"count":0}'
OPERATORS = [
    "/health",
    f"/health/{NAME}",
    "/services",
    f"/services/{NAME}",
    "/circuit-breakers",
    "/routes",
    "/gateway/stats",
    "/metrics",
]
CLIENTS = ["/", "/docs", "/openapi.json", "/api/s3/buckets", "/api/parameters?name=a"]
PROBES = ["/api/health", "/api/health/serving"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "INVENTED"]


@pytest.fixture(scope="module")
def two_ports() -> Iterator[tuple[int, int, Server]]:
    """A gateway whose auxiliary answers, its public port, and that of its operations endpoints."""
    operations = free_port()
    with (
        stand_in.stand_in(stand_in.answering(body(OBJECT))) as port,
        servers("gateway", ports={"auxiliary": port}, OPERATIONS_PORT=str(operations)) as running,
    ):
        yield running["gateway"].port, operations, running["gateway"]


@pytest.mark.parametrize("path", OPERATORS)
def test_on_the_public_port_none_of_them_exists_in_any_method(
    two_ports: tuple[int, int, Server], path: str
) -> None:
    public, operations, _ = two_ports

    for method in METHODS:
        answer = request(public, path, method)
        assert (method, answer.status) == (method, 404)
        assert answer.headers["Allow"] is None
        assert method == "HEAD" or answer.json["code"] == "not_found"
    assert [request(operations, path, method).status for method in ("GET", "HEAD", "POST")] == [200, 200, 405]


@pytest.mark.parametrize("path", CLIENTS)
def test_on_their_port_there_is_nothing_for_clients_in_any_method(
    two_ports: tuple[int, int, Server], path: str
) -> None:
    public, operations, _ = two_ports

    assert request(public, path).status == 200
    assert {request(operations, path, method).status for method in METHODS} == {404}


def test_probes_are_answered_on_both(two_ports: tuple[int, int, Server]) -> None:
    for port, path in itertools.product(two_ports[:2], PROBES):
        assert request(port, path).status == 200


def raw(port: int, head: str) -> int:
    """Send a head as it is written here; give the status."""
    with socket.create_connection((HOST, port), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
        with connection.makefile("rb") as answer:
            return int(answer.readline().split()[1])


def heads(path: str, host: str, port: int) -> list[str]:
    """Write requests for ``path`` that name another port than they are sent to."""
    named = f"{host}:{port}"
    return [
        f"GET {path} HTTP/1.1\nHost: {named}\nConnection: close\n",
        f"GET http://{named}{path} HTTP/1.1\nHost: {named}\nConnection: close\n",
        f"GET {path} HTTP/1.0\n",
        f"GET {path} HTTP/1.1\nHost: a\nX-Forwarded-Host: {named}\nConnection: close\n",
        f"GET {path} HTTP/1.1\nHost: a\nX-Forwarded-Port: {port}\nConnection: close\n",
        f"GET {path} HTTP/1.1\nHost: a\nServer-Port: {port}\nConnection: close\n",
        f"GET {path} HTTP/1.1\nHost: a\nX-HTTP-Method-Override: GET\nConnection: close\n",
    ]


def test_no_request_can_say_that_it_came_by_the_other_port(two_ports: tuple[int, int, Server]) -> None:
    public, operations, _ = two_ports

    for path in OPERATORS:
        assert {raw(public, head) for head in heads(path, HOST, operations)} == {404}
    for path in CLIENTS:
        assert {raw(operations, head) for head in heads(path, HOST, public)} == {404}
    # They are written as the server takes them.
    assert {raw(public, head) for head in heads("/docs", HOST, public)} == {200}


@pytest.mark.parametrize(
    "path",
    ["//services", "/services/", "/Services", "/%73ervices", "/./services", "/x/../services", "/services;"],
)
def test_another_spelling_is_404_on_both(two_ports: tuple[int, int, Server], path: str) -> None:
    head = f"GET {path} HTTP/1.1\nHost: a\nConnection: close\n"

    assert [raw(port, head) for port in two_ports[:2]] == [404, 404]


def test_a_kept_connection_stays_with_its_port(two_ports: tuple[int, int, Server]) -> None:
    public, operations, _ = two_ports
    twice = "GET {} HTTP/1.1\r\nHost: a\r\n\r\n"

    for port, paths, expected in (
        (public, ("/docs", "/services"), (200, 404)),
        (operations, ("/services", "/docs"), (200, 404)),
    ):
        with socket.create_connection((HOST, port), timeout=20) as connection:
            found = []
            for path in paths:
                connection.sendall(twice.format(path).encode())
                answer = connection.makefile("rb")
                found.append(int(answer.readline().split()[1]))
                length = 0
                while (line := answer.readline().strip().lower()) != b"":
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                answer.read(length)
            assert tuple(found) == expected


def test_both_ports_are_measured_as_one(two_ports: tuple[int, int, Server]) -> None:
    public, operations, _ = two_ports

    def unmatched() -> float:
        text = request(operations, "/metrics").body.decode()
        found = re.findall(r'http_requests_total\{[^}]*route="<unmatched>",status_code="404"\} (\S+)', text)
        return sum(map(float, found))

    before = unmatched()
    for _ in range(3):
        request(public, "/services", "POST")
        request(operations, "/docs")

    assert unmatched() == before + 6
    routes = request(operations, "/gateway/stats").json["routes"]
    assert {each["route"] for each in routes} >= {"/services", "/docs", "<unmatched>", "/metrics"}


def closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def test_both_ports_are_closed_alike_and_what_was_accepted_is_answered() -> None:
    taken: list[bool] = []
    go = threading.Event()

    def held(client: socket.socket, _: threading.Event) -> None:
        while stand_in.read_head(client):
            taken.append(True)
            go.wait(30)
            client.sendall(body(OBJECT))

    operations = free_port()
    with (
        stand_in.stand_in(held) as port,
        servers(
            "gateway",
            ports={"auxiliary": port},
            OPERATIONS_PORT=str(operations),
            HEALTH_CHECK_INTERVAL="0",
            REQUEST_TIMEOUT="60",
        ) as running,
    ):
        gateway, statuses = running["gateway"], []
        assert not closed(gateway.port)
        assert not closed(operations)
        asking = threading.Thread(
            target=lambda: statuses.append(request(gateway.port, "/api/s3/buckets").status)
        )
        asking.start()
        until(lambda: taken, "the request is under way")
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: closed(gateway.port) and closed(operations), "both ports are closed")
        assert statuses == []
        go.set()
        asking.join(10)

        assert statuses == [200]
        assert gateway.process.wait(20) == 0


def test_a_port_that_is_taken_stops_the_start() -> None:
    with (
        socket.create_server((HOST, 0)) as holder,
        # It tries for five seconds, the other port open without anybody to answer, and then ends.
        pytest.raises((AssertionError, ConnectionError), match=r"gateway ended|reset"),
        servers("gateway", OPERATIONS_PORT=str(holder.getsockname()[1])),
    ):
        pass


# What is told of an instance that is killed.


class Told:
    """What the endpoints say of one gateway."""

    def __init__(self, gateway: Server) -> None:
        self._port = gateway.port

    def get(self, path: str) -> Any:
        return request(self._port, path).json

    def breaker(self, url: str) -> dict[str, Any]:
        [found] = [each for each in self.get("/circuit-breakers")["circuitBreakers"] if each["name"] == url]
        return dict(found)

    def instance(self, url: str) -> dict[str, Any]:
        [found] = [each for each in self.get(f"/services/{NAME}")["instances"] if each["url"] == url]
        return dict(found)

    def until_breaker(self, url: str, state: str, seconds: float = 20.0) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            shown = self.breaker(url)
            return shown if shown["state"] == state else None

        return dict(until(found, f"{url} is {state}", seconds))


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def ask(port: int, times: int = 1, until_true: Callable[[], bool] = lambda: False) -> None:
    """Ask, each time for something else; all must succeed, for there is a well instance."""
    for number in range(times):
        if until_true():
            return
        assert request(port, f"/api/s3/buckets?prefix=p{number}-{time.monotonic_ns()}").status == 200


OPEN_SECONDS = 20.0
SETTINGS = {
    "CACHE_BYTES": "0",
    "BREAKER_FAILURES_IN_A_ROW": "3",
    "BREAKER_OPEN_SECONDS": str(OPEN_SECONDS),
    "HEALTH_CHECK_INTERVAL": "0.5",
    "HEALTH_CHECK_EJECTED_INTERVAL": "0.3",
    # Never: what is told here is what the breaker does, beside it what the checks find.
    "HEALTH_CHECK_UNHEALTHY_AFTER": "100",
}


def test_an_instance_that_is_killed_and_comes_back_is_told_of_by_all_endpoints_alike() -> None:
    killed_port = free_port()
    with stand_in.stand_in(stand_in.answering(body(OBJECT))) as other_port:
        killed, other = f"http://{HOST}:{killed_port}", f"http://{HOST}:{other_port}"
        with servers(
            "aws",
            "auxiliary",
            "gateway",
            ports={"auxiliary": killed_port},
            AUXILIARY_SERVICE_URL=f"{killed},{other}",
            **SETTINGS,
        ) as running:
            gateway, auxiliary = running["gateway"], running["auxiliary"]
            told = Told(gateway)
            until(lambda: (told.instance(killed)["lastCheck"] or {}).get("ok"), "it was checked")
            before = told.breaker(killed)
            assert (before["state"], before["why"], before["opened"]) == ("closed", None, 0)
            assert told.get("/health")["status"] == "healthy"

            killed_at = time.time()
            assert auxiliary.process is not None
            os.killpg(auxiliary.process.pid, signal.SIGKILL)
            auxiliary.process.wait()
            ask(gateway.port, 50, lambda: told.breaker(killed)["state"] == "open")
            assert_is_told_as_ejected(told, gateway, killed, other, killed_at)

            auxiliary.start()
            half_open = told.until_breaker(killed, "half_open")
            assert half_open["why"] == "a health check reached it"
            assert half_open["nextAttempt"] is None
            assert (half_open["failuresInARow"], half_open["opened"]) == (3, 1)
            instance = told.instance(killed)
            assert (instance["state"], instance["breaker"]) == ("half_open", "half_open")
            assert instance["why"] == half_open["why"]
            assert told.get("/health")["status"] == "degraded"

            ask(gateway.port, 50, lambda: told.breaker(killed)["state"] == "closed")
            assert_is_told_as_back(told, killed, half_open)


def assert_is_told_as_ejected(told: Told, gateway: Server, killed: str, other: str, killed_at: float) -> None:
    """Hold every endpoint, the log and the metrics to one story: three failures in a row, and out."""
    shown = told.until_breaker(killed, "open")
    assert (shown["service"], shown["listed"]) == (NAME, True)
    assert shown["why"] == "3 failures in a row"
    assert (shown["failuresInARow"], shown["failures"], shown["opened"]) == (3, 3, 1)
    assert shown["calls"] >= 3
    assert killed_at <= moment(shown["since"]) <= time.time()
    open_for = moment(shown["nextAttempt"]) - moment(shown["since"])
    assert 0.9 * OPEN_SECONDS - 0.01 <= open_for <= OPEN_SECONDS + 0.01
    [line] = [each for each in gateway.lines() if f"breaker of {killed}" in each["message"]]
    said = re.search(r"closed -> open: 3 failures in a row, open for (\S+) s", line["message"])
    assert said is not None
    assert float(said[1]) == pytest.approx(open_for, abs=0.06)
    # Logged when it turned, by the same clock.
    assert abs(moment(line["timestamp"]) - moment(shown["since"])) < 0.5

    instance = until(
        lambda: (found := told.instance(killed))["lastCheck"]["ok"] is False and found, "a check failed"
    )
    assert (instance["state"], instance["breaker"], instance["why"]) == ("ejected", "open", shown["why"])
    assert (instance["inFlight"], instance["weight"]) == (0, 1)
    assert instance["lastCheck"]["cause"] == "ConnectionRefusedError"
    assert killed_at <= moment(instance["lastCheck"]["at"]) <= time.time()
    assert instance["lastSeen"]["source"] == "static"
    assert moment(instance["lastSeen"]["at"]) < killed_at

    well = told.instance(other)
    assert (well["state"], well["breaker"], well["why"]) == ("available", "closed", None)
    assert well["lastCheck"]["ok"] is True
    assert told.breaker(other)["failures"] == told.breaker(other)["opened"] == 0

    [health] = told.get("/health")["services"]
    assert (health["status"], health["instances"], health["available"]) == ("degraded", 2, 1)
    assert health["why"] == "1 of 2 instances not available"
    assert told.get(f"/health/{NAME}")["status"] == "degraded"
    [service] = told.get("/gateway/stats")["services"]
    attempts = {each["url"]: each for each in service["instances"]}
    # A request that was on its way to it when it was killed has been broken off, the others found nobody.
    failed = {
        name: attempts[killed]["outcomes"].pop(name, 0) for name in ("upstream_unavailable", "bad_gateway")
    }
    assert sum(failed.values()) == 3
    assert failed["bad_gateway"] <= 1
    assert set(attempts[killed]["outcomes"]) <= {"2xx"}
    assert set(attempts[other]["outcomes"]) == {"2xx"}
    assert service["retries"] == {name: count for name, count in failed.items() if count}
    assert instance["latency"]["count"] == attempts[killed]["attempts"]
    metrics = request(gateway.port, "/metrics").body.decode()
    assert f'circuit_breaker_state{{instance="{killed}",service="{NAME}"}} 2.0' in metrics


def assert_is_told_as_back(told: Told, killed: str, half_open: dict[str, Any]) -> None:
    shown = told.until_breaker(killed, "closed")
    assert shown["why"] == "3 calls succeeded"
    assert shown["since"] >= half_open["since"]
    assert (shown["failures"], shown["failuresInARow"], shown["opened"]) == (0, 0, 1)
    assert shown["nextAttempt"] is None
    instance = told.instance(killed)
    assert (instance["state"], instance["breaker"], instance["why"]) == ("available", "closed", None)
    assert (instance["lastCheck"]["ok"], instance["lastCheck"]["cause"]) == (True, None)
    assert told.get("/health")["status"] == "healthy"
    assert told.get(f"/health/{NAME}")["why"] is None


def test_a_service_of_which_nobody_is_there_is_503_and_the_whole_is_200() -> None:
    settings = {"HEALTH_CHECK_INTERVAL": "0.2", "HEALTH_CHECK_EJECTED_INTERVAL": "0.2"}
    with servers("gateway", **settings) as running:
        port = running["gateway"].port

        answer = until(
            lambda: (found := request(port, f"/health/{NAME}")).status == 503 and found, "it is unhealthy"
        )

        assert answer.json["status"] == "unhealthy"
        assert answer.json["why"] == "1 of 1 instances not available"
        assert answer.json["lastCheck"]["cause"] == "ConnectionRefusedError"
        whole = request(port, "/health")
        assert (whole.status, whole.json["status"]) == (200, "unhealthy")
        [instance] = request(port, f"/services/{NAME}").json["instances"]
        assert (instance["state"], instance["breaker"]) == ("unhealthy", "closed")
        assert instance["why"] == "health checks failed: ConnectionRefusedError"
        assert request(port, "/health/another").status == 404


def test_each_worker_tells_of_itself_and_says_which_it_is() -> None:
    with (
        stand_in.stand_in(stand_in.answering(body(OBJECT))) as upstream,
        servers("gateway", ports={"auxiliary": upstream}, WEB_CONCURRENCY="2") as running,
    ):
        gateway = running["gateway"]
        workers = until(lambda: len(found := gateway.workers()) == 2 and set(found), "two workers")
        answers = [request(gateway.port, "/gateway/stats").json for _ in range(60)]
        assert {each["worker"] for each in answers} <= workers
        now = datetime.now(UTC).timestamp()
        for worker in {each["worker"] for each in answers}:
            own = [each["requests"] for each in answers if each["worker"] == worker]
            # Each request is counted by the worker that answered it, and shown by its next answer.
            assert own == sorted(own)
            assert own[-1] - own[0] == len(own) - 1
        assert all(now - 60 < moment(each["since"]) <= now for each in answers)
