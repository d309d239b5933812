"""The stand-in for Consul, held to Consul's documentation where both services lean on it."""

import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.end_to_end.processes import HOST, Answer, free_port, quick, request, until
from tests.faults.consul import SERVICE, Consul, consul, seconds
from tests.faults.instances import upstreams

LIST = f"/v1/health/service/{SERVICE}"
REGISTER = "/v1/agent/service/register"


@pytest.fixture
def running() -> Iterator[Consul]:
    with consul() as one:
        yield one


def get(one: Consul, target: str, token: str = "") -> Answer:
    return request(one.port, target, X_Consul_Token=token)


def put(one: Consul, target: str, facts: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, one.port, timeout=10)
    try:
        connection.request("PUT", target, body=None if facts is None else json.dumps(facts))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def index(answer: Answer) -> int:
    return int(answer.headers["X-Consul-Index"])


def ids(answer: Answer) -> list[str]:
    return sorted(each["Service"]["ID"] for each in answer.json)


def later(after: float, act: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(after, act)
    timer.start()
    return timer


# Lists.


def test_a_list_has_what_is_documented(running: Consul) -> None:
    running.add("a", "10.0.0.1", 3001, 7, tags=("blue",))
    answer = get(running, LIST)
    [entry] = answer.json

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert (answer.headers["X-Consul-KnownLeader"], answer.headers["X-Consul-LastContact"]) == ("true", "0")
    assert index(answer) > 0
    assert entry.keys() == {"Node", "Service", "Checks"}
    assert entry["Node"]["Address"] == HOST
    service = entry["Service"]
    assert (service["ID"], service["Service"], service["Address"], service["Port"]) == (
        *("a", SERVICE),
        *("10.0.0.1", 3001),
    )
    assert service["Weights"] == {"Passing": 7, "Warning": 1}
    assert [(each["CheckID"], each["Status"]) for each in entry["Checks"]] == [
        ("service:a", "passing"),
        ("serfHealth", "passing"),
    ]


def test_a_list_is_of_what_was_asked_for(running: Consul) -> None:
    running.add("a", "10.0.0.1", 1, tags=("blue", "v2"))
    running.add("b", "10.0.0.2", 1, passing=False)
    running.add("c", "10.0.0.3", 1, service="other")

    assert ids(get(running, LIST)) == ["a", "b"]
    for passing in ("passing=1", "passing", "passing=true", "passing&near=_agent"):
        assert ids(get(running, f"{LIST}?{passing}")) == ["a"]
    assert ids(get(running, f"{LIST}?passing=0")) == ["a", "b"]
    assert ids(get(running, f"{LIST}?tag=blue&tag=v2")) == ["a"]
    assert ids(get(running, f"{LIST}?tag=blue&tag=v3")) == []
    assert ids(get(running, f"{LIST}?ns=other")) == []
    assert ids(get(running, f"{LIST}?dc=dc1")) == ["a", "b"]
    assert ids(get(running, "/v1/health/service/none")) == []
    assert get(running, f"{LIST}?dc=mars").status == 500


@pytest.mark.parametrize("query", ["wait=10", "wait=s", "wait=-1s", "index=x", "index=-1", "passing=maybe"])
def test_a_query_that_is_none_is_refused(running: Consul, query: str) -> None:
    assert get(running, f"{LIST}?{query}").status == 400


# Blocking queries.


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.add("b", "10.0.0.2", 1),
        lambda one: one.remove("a"),
        lambda one: one.set_passing("a", False),
        lambda one: one.touch(),
    ],
    ids=("joins", "leaves", "fails", "touched"),
)
def test_a_blocking_query_returns_on_a_change(running: Consul, change: Callable[[Consul], object]) -> None:
    running.add("a", "10.0.0.1", 1)
    before = index(get(running, f"{LIST}?passing"))
    timer = later(0.4, lambda: change(running))
    answer = get(running, f"{LIST}?passing&index={before}&wait=10s")
    timer.join()

    assert 0.3 < answer.seconds < 1.0
    assert index(answer) > before


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_blocking_query_returns_after_its_wait_and_a_sixteenth_at_most(
    running: Consul, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.add("a", "10.0.0.1", 1)
    before = index(get(running, LIST))
    monkeypatch.setattr(random, "random", lambda: share)
    answer = quick(lambda: get(running, f"{LIST}?index={before}&wait=1600ms"), 1.6 + share * 0.1 + 0.05)

    assert 0 <= answer.seconds - 1.6 - share * 0.1 < 0.09
    assert (index(answer), ids(answer)) == (before, ["a"])


def test_what_has_changed_already_is_not_waited_for(running: Consul) -> None:
    running.add("a", "10.0.0.1", 1)
    for query in ("", "?wait=5s", "?index=0&wait=5s", "?index=1&wait=5s"):
        assert get(running, LIST + query).seconds < 0.5


def test_a_service_that_is_not_there_yet_is_waited_for_by_1(running: Consul) -> None:
    timer = later(0.4, lambda: running.add("a", "10.0.0.1", 1))
    answer = get(running, f"{LIST}?index=1&wait=5s")
    timer.join()

    assert ids(answer) == ["a"]
    assert answer.seconds > 0.3


def test_the_index_never_goes_back_on_its_own(running: Consul) -> None:
    chosen = random.Random(1)
    seen = [index(get(running, LIST))]
    for _ in range(100):
        id_ = chosen.choice("abc")
        match chosen.randrange(4):
            case 0:
                running.add(id_, "10.0.0.1", 1)
            case 1:
                running.remove(id_)
            case 2 if running.service(id_):
                running.set_passing(id_, chosen.random() < 0.5)
            case _:
                running.touch()
        seen.append(index(get(running, LIST)))

    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_a_client_that_leaves_is_not_waited_for(running: Consul) -> None:
    with socket.create_connection((HOST, running.port)) as client:
        client.sendall(f"GET {LIST}?index=1&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until(lambda: running.waiting == 1, "it waits")
    until(lambda: running.waiting == 0, "it is noticed", 1.0)


# Services and their checks.


def definition(url: str = "", **more: Any) -> dict[str, Any]:
    check = {"HTTP": f"{url}/health", "Interval": "100ms", "Timeout": "1s", **more.pop("check", {})}
    return {"ID": "a", "Name": SERVICE, "Address": "10.0.0.1", "Port": 3001, "Check": check, **more}


def test_a_service_passes_while_its_check_does_and_is_removed_when_it_fails_for_long() -> None:
    with consul() as running, upstreams(1) as (instance,):
        facts = definition(instance.url, check={"DeregisterCriticalServiceAfter": "1s"})
        assert put(running, REGISTER, facts) == (200, b"")
        until(lambda: ids(get(running, f"{LIST}?passing")) == ["a"], "it passes", 2.0)
        time.sleep(1.2)  # longer than it may fail: it does not
        assert running.passing("a")

        instance.kill()
        until(lambda: not running.passing("a"), "it fails", 1.0)
        failed = time.monotonic()
        assert ids(get(running, LIST)) == ["a"]
        until(lambda: get(running, "/v1/agent/service/a").status == 404, "it is removed", 2.0)

        assert time.monotonic() - failed > 0.9
        assert ids(get(running, LIST)) == []


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, "passing"), (204, "passing"), (429, "warning"), (302, "critical"), (500, "critical")],
)
def test_the_status_of_a_check_is_what_its_answer_means(running: Consul, status: int, state: str) -> None:
    asked = []

    def serve(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                head = connection.recv(65536)
                if not head:
                    return
                asked.append(head)
                connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        put(running, REGISTER, definition(url, check={"Status": "passing" if state != "passing" else ""}))

        def found() -> str:
            return str(get(running, LIST).json[0]["Checks"][0]["Status"])

        until(lambda: len(asked) > 2 and found() == state, "the state", 3.0)
        put(running, "/v1/agent/service/deregister/a")
        with socket.create_connection(listener.getsockname()) as end:
            end.shutdown(socket.SHUT_WR)
            thread.join(5)

    assert asked[0].startswith(b"GET /health HTTP/1.1\r\n")


def test_a_check_that_hangs_fails_after_its_timeout_and_holds_nothing_up() -> None:
    with socket.create_server((HOST, 0)) as silent, consul() as running:
        url = f"http://{HOST}:{silent.getsockname()[1]}"
        slow = {"Status": "passing", "Timeout": "500ms"}
        put(running, REGISTER, definition(url, check=slow))
        put(running, REGISTER, definition(url, ID="b", check={**slow, "Timeout": "60s"}))
        until(lambda: not running.passing("a"), "it fails", 2.0)
        assert running.passing("b")
        begun = time.monotonic()
    assert time.monotonic() - begun < 1.0


def test_a_service_registered_again_keeps_the_state_of_its_check() -> None:
    with consul() as running, upstreams(1) as (instance,):
        put(running, REGISTER, definition(instance.url))
        until(lambda: running.passing("a"), "it passes", 2.0)
        before = index(get(running, LIST))
        for _ in range(3):
            put(running, REGISTER, definition(instance.url))
            assert running.passing("a")
        assert index(get(running, LIST)) == before
        put(running, REGISTER, definition(instance.url, Port=3002))

        assert index(get(running, LIST)) > before
        assert running.passing("a")
        facts = running.service("a")
        assert facts is not None
        assert facts["Port"] == 3002


def test_a_service_is_shown_as_registered_and_gone_when_deregistered(running: Consul) -> None:
    weights, meta = {"Passing": 5, "Warning": 1}, {"version": "2.1.0"}
    put(
        running,
        REGISTER,
        {"Name": "n", "Port": 80, "Tags": ["x"], "Meta": meta, "Weights": weights},
    )
    answer = get(running, "/v1/agent/service/n")

    facts = answer.json
    assert facts["ContentHash"] == answer.headers["X-Consul-ContentHash"]
    shown = {"ID": "n", "Service": "n", "Address": "", "Port": 80, "Tags": ["x"]}
    assert facts.items() >= {**shown, "Meta": meta, "Weights": weights}.items()
    assert put(running, "/v1/agent/service/deregister/n") == (200, b"")
    assert get(running, "/v1/agent/service/n").status == 404
    assert put(running, "/v1/agent/service/deregister/n") == (200, b"")


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        {},
        {"ID": "a"},
        {"Name": "a", "Prot": 1},
        {"Name": "a", "Port": "80"},
        {"Name": "a", "Port": True},
        {"Name": "a", "Tags": [1]},
        {"Name": "a", "Meta": {"a b": "c"}},
        {"Name": "a", "Meta": {"a": "c" * 513}},
        {"Name": "a", "Meta": {str(each): "" for each in range(65)}},
        {"Name": "a", "Weights": {"Passing": 0, "Warning": 1}},
        {"Name": "a", "Weights": {"Passing": 65536, "Warning": 1}},
        {"Name": "a", "Check": {"HTTP": "http://x/"}},
        {"Name": "a", "Check": {"HTTP": "http://x/", "Interval": "10"}},
        {"Name": "a", "Check": {"HTTP": "http://x/", "Interval": 10}},
        {"Name": "a", "Check": {"HTTP": "http://x/", "Interval": "10s", "Status": "well"}},
        {"Name": "a", "Check": {"HTTP": "http://x/", "Interval": "10s", "TimeOut": "1s"}},
    ],
)
def test_a_registration_that_is_none_is_refused(running: Consul, facts: object) -> None:
    assert put(running, REGISTER, facts)[0] == 400
    assert running.service("a") is None


def test_other_paths_and_methods_are_not_there(running: Consul) -> None:
    for method, target, status in (
        ("GET", "/", 404),
        ("GET", "/v1/catalog/services", 404),
        ("GET", "/v1/health/service/", 400),
        ("POST", LIST, 405),
        ("DELETE", LIST, 405),
        ("HEAD", LIST, 405),
        ("GET", REGISTER, 405),
        ("POST", "/v1/agent/service/deregister/a", 405),
    ):
        assert request(running.port, target, method).status == status, (method, target)
    assert request(running.port, REGISTER, "POST").headers["Allow"] == "PUT"


def test_a_token_is_asked_of_everybody() -> None:
    with consul(token="right") as running:
        for token in ("", "wrong"):
            answer = get(running, LIST, token)
            assert (answer.status, answer.body) == (403, b"Permission denied")
        assert put(running, REGISTER, {"Name": "a"})[0] == 403
        assert get(running, LIST, "right").status == 200

        assert [each.token for each in running.requests] == [False, True, False, True]


@pytest.mark.parametrize(
    ("text", "value"),
    [("10s", 10), ("500ms", 0.5), ("1h30m", 5400), ("1.5s", 1.5), (".5s", 0.5), ("0", 0), ("1us", 1e-6)],
)
def test_durations_are_read(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "1 s", "1s 2s", "1d", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        seconds(text)


# Faults.


def test_each_fault_is_what_it_is_called_and_ends(running: Consul) -> None:
    running.add("a", "10.0.0.1", 1)
    for code in (500, 429, 404):
        running.status(code)
        assert get(running, LIST).status == put(running, REGISTER, {"Name": "b"})[0] == code
    running.garbage(b"[" * 9)
    assert get(running, LIST).body == b"[" * 9
    running.empty()
    assert get(running, LIST).json == []
    running.filtered()
    assert get(running, LIST).headers["X-Consul-Results-Filtered-By-ACLs"] == "true"
    running.thousand()
    assert len(ids(get(running, LIST))) == 1000
    running.index_zero()
    assert index(get(running, LIST)) == 0
    running.no_index()
    assert "X-Consul-Index" not in get(running, LIST).headers
    running.churn()
    first, second = (index(get(running, f"{LIST}?index=99999&wait=5s")) for _ in range(2))
    assert second == first + 1
    running.hang()
    with pytest.raises(TimeoutError):
        request(running.port, LIST, timeout=0.5)
    running.refuse()
    with pytest.raises(ConnectionRefusedError):
        get(running, LIST)
    running.back()

    assert running.service("b") is None
    assert ids(get(running, LIST)) == ["a"]
    running.reset_index()
    assert index(get(running, LIST)) == 1
    running.forget_all()
    assert get(running, LIST).json == []
    assert get(running, "/v1/agent/service/a").status == 404


def test_what_waits_meets_the_fault(running: Consul) -> None:
    for begin, status in ((lambda: running.status(500), 500), (running.reset_index, 200)):
        before = index(get(running, LIST))
        timer = later(0.4, begin)
        answer = get(running, f"{LIST}?index={before}&wait=20s")
        timer.join()
        running.back()
        assert (answer.status, answer.seconds < 2) == (status, True)
    for begin in (running.refuse, running.hang):
        before = index(get(running, LIST))
        timers = [later(0.4, begin), later(0.8, running.back)]
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            get(running, f"{LIST}?index={before}&wait=20s")
        for timer in timers:
            timer.join()


def test_an_index_that_is_reset_quietly_leaves_who_waits_waiting(running: Consul) -> None:
    running.touch()
    before = index(get(running, LIST))
    timer = later(0.2, lambda: running.reset_index(quietly=True))
    answer = get(running, f"{LIST}?index={before}&wait=1s")
    timer.join()

    assert answer.seconds >= 1.0
    assert index(answer) < before


# The tool itself.


def test_the_journal_has_what_was_asked(running: Consul) -> None:
    get(running, f"{LIST}?passing=1&wait=1s", "t")
    put(running, REGISTER, {"Name": "a"})

    [first, second] = running.requests
    assert (first.method, first.path, first.query, first.token) == (
        *("GET", LIST),
        *({"passing": "1", "wait": "1s"}, True),
    )
    assert (second.method, second.path, second.query, second.token) == ("PUT", REGISTER, {}, False)
    assert first.at < second.at


def test_nothing_is_left_of_it() -> None:
    threads, files = set(threading.enumerate()), len(os.listdir("/dev/fd"))
    clients = []
    silent = socket.create_server((HOST, 0))
    with silent, consul() as running:
        put(running, REGISTER, definition(f"http://{HOST}:{silent.getsockname()[1]}"))
        for target in (f"{LIST}?index=9999&wait=60s", LIST, "/"):
            client = socket.create_connection((HOST, running.port))
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            clients.append(client)
        until(lambda: running.waiting == 1, "one waits")
        running.hang()
    for client in clients:
        client.close()

    assert set(threading.enumerate()) == threads
    assert len(os.listdir("/dev/fd")) == files
    with pytest.raises(ConnectionRefusedError):
        get(running, LIST)


def test_it_can_be_begun_on_a_port_that_was_just_used() -> None:
    port = free_port()
    for _ in range(3):
        one = Consul(port=port)
        one.start()
        assert get(one, LIST).status == 200
        one.close()
