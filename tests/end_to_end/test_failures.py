"""What the gateway answers when the auxiliary stops, hangs, drips or talks nonsense."""

import socket
import threading
from contextlib import ExitStack

import pytest

from main_api.settings import Settings
from tests.end_to_end import stand_in
from tests.end_to_end.processes import HOST, free_port, quick, request, servers, until
from tests.end_to_end.stand_in import Behaviour, body, gateway_before

OBJECT = b'{"success":true,"data":[],"count":0}'


def test_a_stopped_auxiliary_is_told_at_once_and_heals_by_itself() -> None:
    with servers("aws", "auxiliary", "gateway", RETRY_ATTEMPTS="1") as running:
        port, auxiliary = running["gateway"].port, running["auxiliary"]
        until(lambda: request(port, "/api/health/ready").status == 200, "ready")
        assert request(port, "/api/s3/buckets").status == 200

        auxiliary.stop()
        answer = quick(lambda: request(port, "/api/s3/buckets", Cache_Control="no-cache"), 0.1)

        assert (answer.status, answer.json["code"]) == (503, "upstream_unavailable")
        assert answer.json["retryAfter"] == int(answer.headers["Retry-After"])
        assert answer.seconds < 0.1
        not_ready = until(
            lambda: (found := request(port, "/api/health/ready")).status == 503 and found, "not ready"
        )
        assert not_ready.json["status"] == "not ready"
        assert not_ready.json["versions"]["auxiliary-service"] == "unknown"
        assert request(port, "/api/health/serving").status == 200

        auxiliary.start()
        until(lambda: request(port, "/api/health/ready").status == 200, "ready again")
        assert request(port, "/api/s3/buckets").status == 200


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(stand_in.hanging, id="hangs"),
        pytest.param(stand_in.dripping(body(OBJECT)), id="drips its head"),
        pytest.param(
            stand_in.dripping(b" " * 1000, stand_in.HEAD + b"Content-Length: 1000\r\n\r\n"),
            id="drips its body",
        ),
        pytest.param(
            stand_in.dripping(b"1\r\n \r\n" * 200, stand_in.HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
            id="drips chunks",
        ),
    ],
)
@pytest.mark.parametrize("target", ["/api/s3/buckets", "/api/parameters?name=a"])
def test_an_auxiliary_without_an_answer_is_504_by_the_deadline(behave: Behaviour, target: str) -> None:
    settings = {"REQUEST_TIMEOUT": "1", "ATTEMPT_TIMEOUT": "0.4", "BREAKER_FAILURES_IN_A_ROW": "1000"}
    with gateway_before(behave, **settings) as gateway:
        answer = quick(lambda: request(gateway.port, target), 1.1)

        assert (answer.status, answer.json["code"]) == (504, "gateway_timeout")
        assert answer.seconds <= 1.1

        hurried = quick(lambda: request(gateway.port, target, X_Request_Timeout_Ms="200"), 0.3)
        assert (hurried.status, hurried.json["code"]) == (504, "gateway_timeout")
        assert hurried.seconds <= 0.3


def test_a_client_that_gives_no_time_is_504_at_once_and_nothing_is_sent() -> None:
    taken: list[bool] = []

    def count(client: socket.socket, _: threading.Event) -> None:
        taken.append(bool(stand_in.read_head(client)))

    with gateway_before(count) as gateway:
        answer = quick(lambda: request(gateway.port, "/api/s3/buckets", X_Request_Timeout_Ms="0"), 0.1)

        assert (answer.status, answer.json["code"]) == (504, "gateway_timeout")
        assert answer.seconds <= 0.1
        assert taken == []


def test_an_instance_that_fails_again_and_again_is_left_alone() -> None:
    taken: list[bool] = []

    def end(client: socket.socket, _: threading.Event) -> None:
        taken.append(bool(stand_in.read_head(client)))

    with gateway_before(end, RETRY_ATTEMPTS="1") as gateway:
        codes = [request(gateway.port, "/api/s3/buckets").json["code"] for _ in range(5)]
        refused = [request(gateway.port, "/api/s3/buckets") for _ in range(20)]

        assert codes == ["bad_gateway"] * 5
        assert {(each.status, each.json["code"]) for each in refused} == {(503, "circuit_open")}
        assert {each.headers["Retry-After"] for each in refused} <= {"4", "5"}
        assert len(taken) == 5
        warned = [line["message"] for line in gateway.lines() if "breaker of" in line["message"]]
        assert len(warned) == 1
        assert "closed -> open: 5 failures in a row" in warned[0]


def test_one_request_is_asked_three_times_and_told_in_its_line() -> None:
    taken: list[bool] = []

    def end_twice(client: socket.socket, _: threading.Event) -> None:
        while stand_in.read_head(client):
            taken.append(True)
            if len(taken) < 3:
                return
            client.sendall(body(OBJECT))

    with gateway_before(end_twice) as gateway:
        assert request(gateway.port, "/api/s3/buckets", X_Request_ID="thrice").status == 200

        assert len(taken) == 3
        [line] = [each for each in gateway.lines() if each.get("requestId") == "thrice" and "route" in each]
        assert line["attempts"] == 3


def test_a_connection_that_the_auxiliary_closed_between_two_requests_harms_nobody() -> None:
    """It answers once on each connection and keeps it open, until the next request comes."""

    def once(client: socket.socket, _: threading.Event) -> None:
        stand_in.read_head(client)
        client.sendall(body(OBJECT))
        stand_in.read_head(client)

    with gateway_before(once, RETRY_ATTEMPTS="2") as gateway:
        statuses = [request(gateway.port, "/api/s3/buckets").status for _ in range(30)]

        assert statuses == [200] * 30
        assert "breaker of" not in gateway.log()


CHUNKED = stand_in.HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(
            stand_in.answering(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"
            ),
            id="HTML",
        ),
        pytest.param(
            stand_in.then_closing(stand_in.HEAD + b"Content-Length: 100\r\n\r\n" + OBJECT), id="half a body"
        ),
        pytest.param(stand_in.then_closing(CHUNKED + b'5\r\n{"a":\r\n'), id="half its chunks"),
        pytest.param(stand_in.then_closing(stand_in.HEAD + b"\r\n" + OBJECT), id="no length"),
        pytest.param(
            stand_in.answering(
                b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
            ),
            id="redirect",
        ),
        pytest.param(stand_in.answering(body(b"[1,2]")), id="not an object"),
        pytest.param(stand_in.then_closing(body(b"{" + b" " * 50 * 1024**2 + b"}")), id="50 MB"),
        pytest.param(
            stand_in.then_closing(CHUNKED + b"".join([b"100000\r\n" + b" " * 0x100000 + b"\r\n"] * 50)),
            id="50 MB in chunks",
        ),
        pytest.param(stand_in.then_closing(b""), id="nothing"),
        pytest.param(stand_in.then_closing(b"SSH-2.0-OpenSSH_9.2\r\n"), id="another protocol"),
        pytest.param(
            stand_in.answering(
                b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 39\r\n\r\n"
                b'{"code":"unauthenticated","error":"no"}'
            ),
            id="401",
        ),
    ],
)
def test_nonsense_of_the_auxiliary_is_502_and_the_next_request_is_not_harmed(behave: Behaviour) -> None:
    with gateway_before(behave) as gateway:
        for _ in range(2):
            answer = request(gateway.port, "/api/s3/buckets")
            assert (answer.status, answer.json["code"]) == (502, "bad_gateway")
        assert request(gateway.port, "/api/health").status == 200
        assert "Traceback" not in gateway.log()


def test_a_hanging_aws_is_the_auxiliarys_own_504() -> None:
    aws = free_port()
    with (
        servers("auxiliary", "gateway", ports={"aws": aws}, REQUEST_TIMEOUT="1") as running,
        stand_in.stand_in(stand_in.hanging, aws),
    ):
        target = "/api/parameters?name=database/host"
        answer = quick(lambda: request(running["gateway"].port, target), 1.1)

        assert (answer.status, answer.json["code"]) == (504, "aws_timeout")
        assert answer.seconds <= 1.1


def test_wrong_settings_are_all_told_and_nothing_starts() -> None:
    with (
        pytest.raises(AssertionError, match="gateway ended") as ended,
        servers(
            "gateway",
            GUNICORN_THREADS="0",
            TRUSTED_PROXIES="everybody",
            REDIS_URL="redis://:secret-canary@",
            OPERATIONS_PORT="70000",
            AUTHENTICATION="required",
        ),
    ):
        pass
    for name in ("GUNICORN_THREADS", "TRUSTED_PROXIES", "REDIS_URL", "OPERATIONS_PORT", "AUTHENTICATION"):
        assert name in str(ended.value)
    assert "canary" not in str(ended.value)
    assert "Traceback" not in str(ended.value)


def test_twenty_requests_in_flight_at_sigterm_are_all_answered() -> None:
    taken: list[bool] = []

    def slow(client: socket.socket, over: threading.Event) -> None:
        while stand_in.read_head(client):
            taken.append(True)
            over.wait(1.0)
            client.sendall(body(OBJECT))

    with gateway_before(slow, GUNICORN_THREADS="24") as gateway:
        statuses: list[int] = []
        threads = [
            threading.Thread(
                # Another one each: those that ask the same share one call.
                target=lambda target: statuses.append(request(gateway.port, target).status),
                args=[f"/api/s3/buckets?prefix={number}"],
            )
            for number in range(20)
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(taken) == 20, "all are in flight")
        gateway.stop()
        for thread in threads:
            thread.join(10)

        assert statuses == [200] * 20
        assert gateway.process is not None
        assert gateway.process.returncode == 0


def test_a_draining_process_says_so_and_goes_on_answering() -> None:
    with gateway_before(stand_in.answering(body(OBJECT))) as gateway:
        drain_file = Settings(port=gateway.port).drain_path
        drain_file.touch()
        try:
            assert request(gateway.port, "/api/health/serving").status == 503
            assert request(gateway.port, "/api/health").status == 200
            assert request(gateway.port, "/api/s3/buckets").status == 200
        finally:
            drain_file.unlink()
        assert request(gateway.port, "/api/health/serving").status == 200


HALF_A_HEAD = b"GET /api/s3/buckets HTTP/1.1\r\nHost: a\r\n"
HALF_A_BODY = b"POST /api/s3/buckets HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf"
NEVER_CLOSING = (b"GET /api/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"BROKEN\r\n\r\n")


def test_clients_that_hold_on_do_not_keep_a_probe_waiting() -> None:
    with (
        gateway_before(stand_in.answering(body(OBJECT)), GUNICORN_THREADS="1") as gateway,
        ExitStack() as held,
    ):
        workers = gateway.workers()
        # More halves of each kind than there are threads: one in service, 64 that wait, two for the rest.
        for data in (*NEVER_CLOSING * 5, *[HALF_A_HEAD] * 80, *[HALF_A_BODY] * 80):
            client = held.enter_context(socket.create_connection((HOST, gateway.port), timeout=10))
            client.sendall(data)
        for _ in range(10):
            probe = quick(lambda: request(gateway.port, "/api/health"), 0.25)
            assert probe.status == 200
            assert probe.seconds < 0.25

        assert gateway.workers() == workers
