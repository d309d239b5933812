"""The tools of this folder, held against each other: what they promise the tests that use them."""

import http.client
import itertools
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end import stand_in
from tests.end_to_end.processes import HOST, ROOT, Answer, free_port, request, until
from tests.faults import load, proxy
from tests.faults.instances import Upstream, attempts, upstreams
from tests.faults.load import Result, closed, message, open_loop
from tests.faults.proxy import FOREIGN, FOREIGN_BODY, NONE, Fault, FaultProxy

# The fields of the fixed upstream's answer that a test can foretell.
ECHO = '"id":"{0}","target":"{1}"'


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """Run one upstream for all tests that do it no harm."""
    with upstreams(1) as (one,):
        yield one


def own_answer(request_id: str, target: str, body: bytes) -> bool:
    """Check that a body is the fixed upstream's to this very request."""
    return ECHO.format(request_id, target) in body.decode()


# The upstream and its instances.


def test_the_upstream_answers_as_the_auxiliary_may(upstream: Upstream) -> None:
    answer = request(upstream.port, "/aws/things?name=%22", X_Request_ID="mine")

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Service-Version"] == "9.9.9"
    assert answer.headers["X-Request-ID"] == "mine"
    assert answer.json["success"] is True
    assert answer.json["data"] == {"id": "mine", "target": "/aws/things?name=%22", "method": "GET"}
    assert request(upstream.port, "/health").json == {"status": "healthy"}


def test_the_upstream_keeps_connections_and_reads_bodies(upstream: Upstream) -> None:
    connection = http.client.HTTPConnection(HOST, upstream.port, timeout=5)
    connection.connect()
    first = connection.sock
    for method, content in (("POST", b"GET /health HTTP/1.1\r\n\r\n" * 5_000), ("HEAD", None), ("GET", None)):
        connection.request(method, "/x", body=content)
        answer = connection.getresponse()
        body = answer.read()
        assert (answer.status, f'"method":"{method}"'.encode() in body) == (200, method != "HEAD")
    assert connection.sock is first
    connection.close()
    with socket.create_connection((HOST, upstream.port), timeout=5) as client:
        client.sendall(b"HEAD /x HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert b"".join(iter(lambda: client.recv(65536), b"")).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("kind", ["503", "overloaded"])
def test_the_upstreams_health_is_untouched_by_what_spoils_the_rest(kind: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with upstreams(1, journal=journal, delay=0.3, answer=kind) as (one,):
        assert (health := request(one.port, "/health")).status == 200
        assert health.seconds < 0.2
        answer = request(one.port, "/x", X_Request_ID="a")

    assert answer.status == 503
    assert answer.seconds >= 0.3
    if kind == "503":
        assert (answer.headers["Content-Type"], answer.body) == ("text/plain", b"busy")
    else:
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json.pop("timestamp")
        assert list(answer.json.items())[:4] == [
            *{"success": False, "error": "Busy", "code": "overloaded", "requestId": "x"}.items()
        ]
    assert journal.read_text() == "a GET /x\n"


def test_the_upstreams_process_says_when_it_is_ready_and_ends_well() -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.upstream", "--port", str(port)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"listening on 127.0.0.1:%d\n" % port
            with socket.create_connection((HOST, port)):
                process.send_signal(signal.SIGTERM)
                assert process.wait(2) == 0
        finally:
            process.kill()


def test_a_journal_is_shared_and_survives_the_kill(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    assert attempts(journal) == Counter()
    results: list[Result] = []

    def ask(port: int) -> None:
        results.append(closed(port, "/x", 40, 40, 5, prefix="same"))

    with upstreams(2, journal=journal, delay=0.5) as instances:
        threads = [threading.Thread(target=ask, args=(one.port,)) for one in instances]
        for thread in threads:
            thread.start()
        until(lambda: attempts(journal).total() == 80, "all have arrived")
        for one in instances:
            one.kill()
        for thread in threads:
            thread.join()

    # They were killed before the first answer, and what had arrived is written nevertheless.
    assert [result.statuses.total() for result in results] == [0, 0]
    assert attempts(journal) == Counter({f"same-{number}": 2 for number in range(40)})


def test_a_stopped_upstream_takes_connections_and_goes_on(upstream: Upstream) -> None:
    upstream.pause()
    try:
        with pytest.raises(TimeoutError):
            request(upstream.port, "/health", timeout=0.2)
    finally:
        upstream.cont()
    assert request(upstream.port, "/health", timeout=5).status == 200


def test_no_upstream_is_left_behind_not_even_a_stopped_one() -> None:
    with upstreams(2) as instances:
        instances[0].pause()
        instances[1].kill()
        assert (instances[0].running, instances[1].running) == (True, False)
        instances[1].start()
        assert request(instances[1].port, "/health").status == 200

    assert [one.running for one in instances] == [False, False]
    with socket.socket() as probe:
        assert probe.connect_ex((HOST, instances[0].port)) != 0


# The load generator.


def test_a_closed_loop_sends_each_request_once_and_checks_its_answer(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with upstreams(1, journal=journal) as (one,):
        result = closed(one.port, lambda number: f"/n/{number}", 8, 500, 10, prefix="p", check=own_answer)

    assert result.statuses == Counter({200: 500})
    assert (result.wrong, result.broken, result.opened, result.replaced) == ([], Counter(), 8, 0)
    lines = {f"p-{number} GET /n/{number}" for number in range(500)}
    assert set(journal.read_text().splitlines()) == lines
    assert attempts(journal).total() == len(result.latencies[200]) == sum(result.timeline) == 500


def test_the_generator_costs_little(upstream: Upstream) -> None:
    result = closed(upstream.port, "/x", 8, 2_000, 10)

    # Twice what it takes here: this is to notice a blunder, not the neighbours.
    assert result.cpu / result.done < 120e-6
    assert result.rate() == pytest.approx(2_000 / result.seconds)


def test_an_iterators_end_and_until_and_the_clock_end_a_closed_loop() -> None:
    with upstreams(1, delay=0.02) as (one,):
        listed = closed(one.port, iter(["/a", "/b", "/c"]), 2, 100, 10, check=own_answer)
        moments: list[float] = []
        stopped = closed(one.port, "/x", 2, 10_000, 10, until=lambda: len(moments) >= 5, each=moments.append)
        timed = closed(one.port, "/x", 2, 10_000, 0.3)

    assert (listed.statuses, listed.wrong) == (Counter({200: 3}), [])
    assert moments == sorted(moments)
    assert 0.15 < stopped.seconds < 1
    assert len(moments) >= 5
    assert 0.3 <= timed.seconds < 1
    assert 10 < timed.statuses[200] <= 32
    assert timed.broken.total() == 0


def test_a_closed_loop_lives_through_the_kill_of_what_it_loads() -> None:
    with upstreams(1) as (one,):
        moments = itertools.count()

        def each(_: float) -> None:
            moment = next(moments)
            if moment == 2:
                one.kill()
            elif moment == 6:
                one.begin()

        result = closed(one.port, "/x", 4, 10**6, 1.0, each=each, check=own_answer)
        one.wait_until_open()
        after = closed(one.port, "/x", 4, 50, 10)

    # Four connections, each about twenty times a second.
    assert 0 < result.broken["not connected: ECONNREFUSED"] < 80
    assert result.done == result.statuses.total() + result.broken.total()
    assert result.wrong == []
    assert after.statuses == Counter({200: 50})


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (stand_in.then_closing(b""), "closed before the answer"),
        (stand_in.then_closing(b"HTTP/1.1 200 OK\r\nContent-"), "closed within the answer"),
        (stand_in.then_closing(stand_in.body(b"{}")[:-1]), "closed within the answer"),
        (stand_in.then_closing(b"nonsense\r\n\r\n"), "not HTTP"),
        (stand_in.then_closing(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), "not HTTP"),
    ],
)
def test_what_is_no_complete_answer_is_broken(behave: stand_in.Behaviour, reason: str) -> None:
    with stand_in.stand_in(behave) as port:
        result = closed(port, "/x", 2, 4, 5)

    assert (result.broken, result.statuses, result.wrong) == (Counter({reason: 4}), Counter(), [])


def test_what_is_never_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PATIENCE", 0.2)
    with stand_in.stand_in(stand_in.hanging) as port:
        result = closed(port, "/x", 2, 2, 10)

    assert result.broken == Counter({"no answer within 0 s after the last request": 2})
    assert 0.2 <= result.seconds < 1


def test_an_answer_to_another_request_is_wrong(upstream: Upstream) -> None:
    foreign = b"HTTP/1.1 200 OK\r\nX-Request-ID: load-0\r\nContent-Length: 2\r\n\r\n{}"
    with stand_in.stand_in(stand_in.answering(foreign)) as port:
        mixed_up = closed(port, "/x", 1, 3, 5)
    with stand_in.stand_in(stand_in.answering(foreign + b"HTTP")) as port:
        longer = closed(port, "/x", 1, 1, 5)
    refused = closed(upstream.port, "/x", 1, 2, 5, check=lambda *_: False)

    assert mixed_up.wrong == [f"load-{number} /x: answered with the id 'load-0'" for number in (1, 2)]
    assert longer.wrong == ["load-0 /x: 4 bytes behind the answer"]
    assert len(refused.wrong) == 2


def test_an_answer_may_end_with_its_connection() -> None:
    with stand_in.stand_in(
        stand_in.then_closing(b"HTTP/1.1 200 OK\r\nX-Request-ID: load-0\r\n\r\nabc")
    ) as port:
        result = closed(port, "/x", 1, 2, 5, check=lambda _, __, body: body == b"abc")

    assert (result.statuses, result.broken) == (Counter({200: 2}), Counter())
    assert (len(result.wrong), result.opened, result.replaced) == (1, 2, 0)


def test_codes_of_error_bodies_are_counted() -> None:
    with upstreams(1, answer="overloaded") as (one,):
        result = closed(one.port, "/x", 2, 10, 5)

    assert (result.statuses, result.codes) == (Counter({503: 10}), Counter(overloaded=10))
    assert (result.timeline, result.wrong) == ([0], [])


def test_connections_closed_between_answers_are_replaced_silently() -> None:
    answer = stand_in.body(b"{}", stand_in.HEAD + b"X-Request-ID: load-%d\r\n")
    numbers = itertools.count()

    def behave(client: socket.socket, _: threading.Event) -> None:
        stand_in.read_head(client)
        client.sendall(answer % next(numbers))

    with stand_in.stand_in(behave) as port:
        result = open_loop(port, "/x", 50, 0.2, 1)

    assert result.statuses == Counter({200: 10})
    assert (result.broken, result.wrong, result.opened) == (Counter(), [], 10)
    assert result.replaced >= 9


def test_an_open_loop_keeps_its_rate_and_counts_what_it_could_not_send() -> None:
    with upstreams(1, delay=0.1) as (one,):
        # At 100 a second of 0.1 s each, ten are under way at a time.
        enough = open_loop(one.port, "/x", 100, 1.0, 30)
        scarce = open_loop(one.port, "/x", 100, 1.0, 5)

    assert (enough.done, enough.unsent) == (100, 0)
    assert 0.1 <= enough.median() < 0.2
    assert 1.0 <= enough.seconds < 1.6
    assert scarce.opened == 5
    assert scarce.done + scarce.unsent == 100
    assert 35 <= scarce.done <= 55


def test_messages_end_where_http_says() -> None:
    head = b"HTTP/1.1 200 OK\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n"
    for data in (chunked, head + b"content-LENGTH:  4\r\n\r\nabcd"):
        assert all(message(data[:end]) is None for end in range(len(data)))
        assert (found := message(data + b"more")) is not None
        assert (found.body, found.end, found.status, found.last) == (b"abcd", len(data), 200, False)
    assert message(head + b"\r\nabcd") is None
    assert message(head + b"\r\nabcd", over=True) == (head + b"\r\n", b"abcd", len(head) + 6)
    assert message(b"GET / HTTP/1.1\r\n\r\nGET") == (b"GET / HTTP/1.1\r\n\r\n", b"", 18)
    assert (
        closing := message(b"HTTP/1.1 304 X\r\nContent-Length: 9\r\nConnection: Close\r\n\r\n")
    ) is not None
    assert (closing.body, closing.last) == (b"", True)


def test_percentiles_are_of_one_status() -> None:
    result = Result()
    result.latencies[200] = [float(number) for number in range(100, 0, -1)]
    result.latencies[503] = [7.0]

    assert (result.median(), result.percentile(200, 99), result.percentile(200, 100)) == (50.5, 99, 100)
    assert (result.percentile(200, 0), result.median(503)) == (1, 7)
    with pytest.raises(statistics.StatisticsError):
        result.median(404)
    with pytest.raises(statistics.StatisticsError):
        result.percentile(404, 50)


def test_the_command_prints_a_table(upstream: Upstream, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--port", str(upstream.port), "--connections", "2"]
    load.main([*arguments, "--target", "/x", "--count", "20"])
    load.main([*arguments, "--rate", "100", "--seconds", "0.2"])

    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("20 requests in ")
    assert table[1].split()[:2] == ["200", "20"]
    assert table[2].startswith("20 requests in 0.2")


# The fault proxy.


def raw(port: int, seconds: float = 0.6) -> tuple[bytes, str]:
    """Ask once on a new connection; give every byte that came, and how it ended."""
    with socket.create_connection((HOST, port), timeout=seconds) as client:
        data = b""
        # The whole time in all, not for each byte of what drips.
        deadline = time.monotonic() + seconds
        try:
            client.sendall(b"POST /x HTTP/1.1\r\nX-Request-ID: a\r\nContent-Length: 4\r\n\r\nbody")
            while True:
                client.settimeout(max(0.001, deadline - time.monotonic()))
                piece = client.recv(65536)
                if not piece:
                    return data, "end"
                data += piece
        except TimeoutError:
            return data, "silence"
        except (ConnectionResetError, BrokenPipeError):
            return data, "reset"


def shape(data: bytes) -> str:
    """Say how much of the upstream's answer there is."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return "part of the head" if head.startswith(b"HTTP/1.1 200") else f"{len(head)} bytes"
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    if len(body) > length:
        return "and the foreign one" if body[length:] == FOREIGN else "and other bytes"
    return {0: "the head", length // 2: "half of the body", length: "whole"}.get(
        len(body), f"{len(body)} more"
    )


MEETS = {
    NONE: ("whole", "silence", 1),
    Fault("reset", "connect"): ("0 bytes", "reset", 0),
    Fault("hang", "connect"): ("0 bytes", "silence", 0),
    Fault("reset", "headers"): ("0 bytes", "reset", 1),
    Fault("hang", "headers"): ("0 bytes", "silence", 1),
    Fault("drip", "headers"): ("5 bytes", "silence", 1),
    Fault("half_headers", "headers"): ("part of the head", "end", 1),
    Fault("reset", "body"): ("half of the body", "reset", 1),
    Fault("hang", "body"): ("half of the body", "silence", 1),
    Fault("drip", "body"): ("5 more", "silence", 1),
    Fault("half_body", "body"): ("half of the body", "end", 1),
    Fault("extra_bytes", "body"): ("and the foreign one", "silence", 1),
    Fault("extra_bytes", "body", after=0.02): ("and the foreign one", "silence", 1),
}


@pytest.mark.parametrize("fault", MEETS, ids=lambda fault: f"{fault.kind}-{fault.phase}-{fault.after}")
def test_a_fault_is_what_the_table_says(fault: Fault, upstream: Upstream) -> None:
    what, end, reached = MEETS[fault]
    with FaultProxy(upstream.port, fault) as spoiling:
        data, ended = raw(spoiling.port, 0.58 if fault.kind == "drip" else 0.25)

    assert (shape(data), ended) == (what, end)
    assert spoiling.requests == spoiling.forwarded == Counter({"POST": reached} if reached else {})
    assert spoiling.injected == Counter({fault: 1} if fault != NONE else {})


def test_every_fault_of_the_table_is_tested() -> None:
    tested = {(fault.kind, fault.phase) for fault in MEETS} | {("refuse", "connect")}
    assert tested == set(proxy.PLANS)
    with pytest.raises(ValueError, match="no fault half_body in phase connect"):
        Fault("half_body")


@pytest.mark.parametrize("after", [0.0, 0.02])
def test_the_foreign_bytes_come_when_they_are_said_to(after: float, upstream: Upstream) -> None:
    with FaultProxy(upstream.port, Fault("extra_bytes", "body", after)) as spoiling:
        # In one segment must hold every time, and not by luck.
        for _ in range(2 if after else 20):
            with socket.create_connection((HOST, spoiling.port), timeout=5) as client:
                client.sendall(b"GET /x HTTP/1.1\r\n\r\n")
                first = client.recv(65536)
                begun = time.monotonic()
                rest = client.recv(65536) if after else b""
                waited = time.monotonic() - begun
            assert (first + rest).endswith(FOREIGN_BODY)
            assert rest == (FOREIGN if after else b"")
            assert waited >= after * 0.5
        result = closed(spoiling.port, "/x", 1, 2, 5)

    # The generator sees them as well: behind the first answer, or in the place of the second.
    assert result.wrong


def test_a_reset_before_the_request_waits_for_nothing(upstream: Upstream) -> None:
    with (
        FaultProxy(upstream.port, Fault("reset", "connect")) as spoiling,
        socket.create_connection((HOST, spoiling.port), timeout=5) as client,
        pytest.raises(ConnectionResetError),
    ):
        client.recv(1)


def test_refuse_leaves_nobody_listening_until_it_is_taken_back(upstream: Upstream) -> None:
    with FaultProxy(upstream.port) as spoiling:
        connection = http.client.HTTPConnection(HOST, spoiling.port, timeout=5)
        assert asked(connection) == 200
        spoiling.fault = Fault("refuse", "connect")
        with pytest.raises(ConnectionResetError):
            connection.sock.recv(1)
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            raw(spoiling.port)
        spoiling.fault = NONE
        assert asked(connection) == 200
        connection.close()


def asked(connection: http.client.HTTPConnection) -> int | str:
    """Ask once more on the same connection; give the status, or the name of what went wrong."""
    try:
        connection.request("GET", "/x")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    return answer.status


def test_each_request_of_a_kept_connection_meets_its_own_fault(upstream: Upstream) -> None:
    faults = [NONE, NONE, Fault("half_body", "body"), NONE, Fault("reset", "connect"), NONE]
    to_draw = list(faults)
    with FaultProxy(upstream.port, lambda: to_draw.pop(0)) as spoiling:
        connection = http.client.HTTPConnection(HOST, spoiling.port, timeout=5)
        met: list[int | str] = []
        for _ in range(5):
            # http.client connects anew by itself, but only after an orderly end.
            met.append(asked(connection))
            if not isinstance(met[-1], int):
                connection.close()
        # The sixth is drawn when the next connection is there, on which a later setting holds.
        connection.connect()
        until(lambda: not to_draw, "drawn")
        spoiling.fault = Fault("reset", "headers")
        met.append(asked(connection))
        connection.close()

    assert met == [200, 200, "IncompleteRead", 200, "ConnectionResetError", "ConnectionResetError"]
    assert spoiling.requests == Counter(GET=5)
    assert spoiling.injected == Counter(faults[2:3] + faults[4:5] + [Fault("reset", "headers")])


def test_reset_kept_ends_what_is_live_and_no_more(upstream: Upstream) -> None:
    with FaultProxy(upstream.port, Fault("hang", "headers")) as spoiling:
        clients = [socket.create_connection((HOST, spoiling.port), timeout=5) for _ in range(3)]
        clients[0].sendall(b"GET /x HTTP/1.1\r\n\r\n")
        until(lambda: spoiling.connections == 3 and spoiling.injected.total() == 1, "all are there")
        spoiling.reset_kept()
        assert spoiling.connections == 0
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            client.close()
        spoiling.fault = NONE
        assert request(spoiling.port, "/x").status == 200


def test_a_mixture_breaks_the_requests_it_was_drawn_for_and_wrongs_nobody(upstream: Upstream) -> None:
    kinds = [NONE] * 20 + [Fault("refuse", "connect"), Fault("reset", "connect"), Fault("reset", "headers")]
    kinds += [Fault("half_body", "body"), Fault("half_headers", "headers"), Fault("reset", "body")]
    source = random.Random(5)
    drawn: Counter[Fault] = Counter()

    def draw() -> Fault:
        fault = source.choice(kinds)
        drawn[fault] += 1
        return fault

    with FaultProxy(upstream.port, draw) as spoiling:
        result = closed(spoiling.port, "/x", 1, 200, 20, check=own_answer)

    assert result.wrong == []
    assert drawn.pop(NONE) == result.statuses[200] > 100
    assert set(drawn) == set(kinds) - {NONE}
    assert spoiling.injected == drawn
    refused = result.broken["not connected: ECONNREFUSED"]
    assert refused > 0
    assert result.broken.total() - refused == drawn.total()


def test_a_gone_upstream_is_a_reset_and_a_restarted_one_is_found() -> None:
    with upstreams(1) as (one,), FaultProxy(one.port) as spoiling:
        connection = http.client.HTTPConnection(HOST, spoiling.port, timeout=5)
        met = [asked(connection)]
        one.kill()
        one.start()
        met.append(asked(connection))
        one.kill()
        met.append(asked(connection))
        connection.close()

    assert met == [200, 200, "ConnectionResetError"]


def test_a_proxy_leaves_nothing_behind_and_hides_no_fault_of_its_own(upstream: Upstream) -> None:
    before = set(threading.enumerate())
    with FaultProxy(upstream.port, Fault("hang", "connect")) as spoiling:
        client = socket.create_connection((HOST, spoiling.port), timeout=5)
        until(lambda: spoiling.connections == 1, "it is there")
        assert set(threading.enumerate()) > before
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    client.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        raw(spoiling.port)

    def broken() -> Fault:
        raise LookupError("of the test's own")

    with pytest.raises(LookupError, match="own"), FaultProxy(upstream.port, broken) as spoiling:
        raw(spoiling.port)


def test_answers_without_a_fault_are_passed_on_whole(upstream: Upstream) -> None:
    with FaultProxy(upstream.port) as passing:
        result = closed(passing.port, lambda number: f"/n/{number}", 8, 1_000, 10, check=own_answer)
        head: Answer = request(passing.port, "/x", method="HEAD")

    assert (result.statuses, result.wrong, result.broken) == (Counter({200: 1_000}), [], Counter())
    assert (head.status, head.body) == (200, b"")
    assert passing.forwarded == Counter(GET=1_000, HEAD=1)
    assert result.opened == 8
