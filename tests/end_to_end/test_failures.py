"""What the gateway answers when the auxiliary stops, hangs, drips or talks nonsense."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from main_api.settings import Settings
from tests.end_to_end import stand_in
from tests.end_to_end.processes import HOST, Server, free_port, request, servers, until
from tests.end_to_end.stand_in import Behaviour, body

OBJECT = b'{"success":true,"data":[],"count":0}'


@contextmanager
def gateway_before(behave: Behaviour, **settings: str) -> Iterator[Server]:
    """Run a gateway whose auxiliary is a stand-in."""
    with (
        stand_in.stand_in(behave) as port,
        servers("gateway", ports={"auxiliary": port}, **settings) as running,
    ):
        yield running["gateway"]


def test_a_stopped_auxiliary_is_told_at_once_and_heals_by_itself() -> None:
    with servers("aws", "auxiliary", "gateway") as running:
        port, auxiliary = running["gateway"].port, running["auxiliary"]
        until(lambda: request(port, "/api/health/ready").status == 200, "ready")
        assert request(port, "/api/s3/buckets").status == 200

        auxiliary.stop()
        answer = request(port, "/api/s3/buckets", Cache_Control="no-cache")

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
def test_an_auxiliary_without_an_answer_is_504_by_the_deadline(behave: Behaviour) -> None:
    with gateway_before(behave, REQUEST_TIMEOUT="1") as gateway:
        answer = request(gateway.port, "/api/s3/buckets")

        assert (answer.status, answer.json["code"]) == (504, "gateway_timeout")
        assert answer.seconds <= 1.1


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
        answer = request(running["gateway"].port, "/api/parameters?name=database/host")

        assert (answer.status, answer.json["code"]) == (504, "aws_timeout")
        assert answer.seconds <= 1.1


def test_wrong_settings_are_all_told_and_nothing_starts() -> None:
    with (
        pytest.raises(AssertionError, match="gateway ended") as ended,
        servers(
            "gateway",
            GUNICORN_THREADS="0",
            TRUSTED_PROXIES="everybody",
            REDIS_URL="redis://localhost",
            AUTHENTICATION="required",
        ),
    ):
        pass
    for name in ("GUNICORN_THREADS", "TRUSTED_PROXIES", "REDIS_URL", "AUTHENTICATION"):
        assert name in str(ended.value)
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
            threading.Thread(target=lambda: statuses.append(request(gateway.port, "/api/s3/buckets").status))
            for _ in range(20)
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
        gateway_before(stand_in.answering(body(OBJECT)), GUNICORN_THREADS="4") as gateway,
        ExitStack() as held,
    ):
        workers = gateway.workers()
        for data in (*NEVER_CLOSING * 5, *[HALF_A_HEAD] * 8, *[HALF_A_BODY] * 8):
            client = held.enter_context(socket.create_connection((HOST, gateway.port), timeout=10))
            client.sendall(data)
        for _ in range(10):
            probe = request(gateway.port, "/api/health")
            assert probe.status == 200
            assert probe.seconds < 0.25

        assert gateway.workers() == workers
