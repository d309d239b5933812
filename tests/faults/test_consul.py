"""``consul://`` over real sockets: changes arrive, faults are survived, and nothing is left behind."""

import gc
import ipaddress
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from main_api.upstream.discovery.consul import BODY_MOST, WAIT, ConsulSource
from main_api.upstream.discovery.discovered import Discovered
from main_api.upstream.discovery.source import SourceFailed
from tests.end_to_end.processes import HOST, free_port, until
from tests.faults.consul import SERVICE, Consul, consul
from tests.faults.support import per_form, say

NAME = f"consul://{SERVICE}"
TOKEN = "b1gs33cr3t-9f3c-4d1e-8a7b-000000000000"
# Seconds for a change to arrive, and for a fault to be over.
ARRIVES, RECOVERS = 1.0, 2.0

# A change that its loop could miss takes until the end of a wait.
NEXT_WAIT = WAIT * (1 + 1 / 16) + ARRIVES


@pytest.fixture
def running() -> Iterator[Consul]:
    with consul() as one:
        one.add("a", "10.0.0.1", 1)
        one.add("b", "10.0.0.2", 2, 5)
        yield one


def source_of(url: str, token: str | None = None) -> ConsulSource:
    return ConsulSource(NAME, SERVICE, url, token, datacenter=None, tag=None, namespace=None)


@contextmanager
def list_of(one: Consul, token: str | None = None) -> Iterator[Discovered]:
    """Follow a Consul's list; its thread has ended when the block has."""
    made = Discovered(SERVICE, source_of(one.url, token), networks=[ipaddress.ip_network("10.0.0.0/8")])
    made.start()
    try:
        until(lambda: made.state.fault is None, "the first list", 3.0)
        yield made
    finally:
        made.stop()
        made._thread.join(2)
        assert not made._thread.is_alive()


def urls(made: Discovered) -> set[str]:
    return {each.url.removeprefix("http://10.0.0.") for each in made()}


def arrives(made: Discovered, expected: set[str], seconds: float = ARRIVES) -> float:
    """Wait until the list is the expected one and no fault is left; give the seconds that it took."""
    begun = time.monotonic()
    until(lambda: urls(made) == expected and made.state.fault is None, f"{expected} arrive", seconds)
    return time.monotonic() - begun


def ends(source: ConsulSource, close: Callable[[], object]) -> float:
    """Read in a thread, close in this one once it waits, and give the seconds that the read took to end."""
    ended: list[float] = []

    def read() -> None:
        with pytest.raises(SourceFailed, match=r"^closed$"):
            source.read()
        ended.append(time.monotonic())

    thread = threading.Thread(target=read)
    thread.start()
    close()
    begun = time.monotonic()
    source.close()
    thread.join(20)
    return ended[0] - begun


# Changes.


def test_the_list_is_consuls(running: Consul) -> None:
    running.add("c", "10.0.0.3", 3, passing=False)
    running.add("d", "10.0.0.4", 4, service="other")
    with list_of(running) as made:
        assert urls(made) == {"1:1", "2:2"}
        assert {each.url[-1]: each.weight for each in made()} == {"1": 1, "2": 5}


def test_a_change_arrives_within_a_second(running: Consul) -> None:
    chosen = random.Random(7)
    there = {"1:1", "2:2"}
    took = []
    with list_of(running) as made:
        for _ in range(per_form(12, 100)):
            time.sleep(chosen.uniform(0, 1.2))
            number = chosen.randrange(3, 9)
            url = f"{number}:{number}"
            if url in there:
                if chosen.random() < 0.5:
                    running.remove(str(number))
                else:
                    running.set_passing(str(number), False)
            else:
                running.add(str(number), f"10.0.0.{number}", number)
            there ^= {url}
            took.append(arrives(made, there))
    say(
        f"a change arrives after {sorted(took)[len(took) // 2] * 1000:.0f} ms, {max(took) * 1000:.0f} at most"
    )


def test_the_first_of_many_changes_arrives_within_a_second_and_the_last_too(running: Consul) -> None:
    with list_of(running) as made:
        time.sleep(0.6)
        begun, seen = time.monotonic(), len(running.requests)
        for each in range(200):
            running.add("c", "10.0.0.3", 3 + each % 2)
            if each == 0:
                arrives(made, {"1:1", "2:2", "3:3"})
            time.sleep(0.01)
        arrives(made, {"1:1", "2:2", "3:4"})
        assert len(running.requests) - seen <= 3 + 2 * (time.monotonic() - begun)


def test_one_connection_does_and_nobody_is_asked_without_a_reason(running: Consul) -> None:
    with list_of(running) as made:
        for each in range(5):
            running.add("c", "10.0.0.3", 10 + each)
            arrives(made, {"1:1", "2:2", f"3:{10 + each}"})
            time.sleep(0.5)
        asked = len(running.requests)
        time.sleep(1.0)

    assert asked == len(running.requests) == 7
    assert running.connections == 1
    assert {(each.path, each.query["passing"]) for each in running.requests} == {
        (f"/v1/health/service/{SERVICE}", "1")
    }


# Faults.

BOMB = b"[" * 100_000
# What begins a fault, and what is said of it. A read that hangs is given up at its own time, not at ours.
FAULTS: dict[str, tuple[Callable[[Consul], object], str]] = {
    "refuse": (lambda one: one.refuse(), "no connection"),
    "hang": (lambda one: one.hang(), ""),
    "500": (lambda one: one.status(500), "500: internal error"),
    "429": (lambda one: one.status(429), "429: rate limited"),
    "404": (lambda one: one.status(404), "404: not found"),
    "403": (lambda one: one.status(403), "403: permission denied"),
    "html": (lambda one: one.garbage(), "no JSON"),
    "bomb": (lambda one: one.garbage(BOMB), "no JSON"),
    "huge": (lambda one: one.garbage(b"[" + b" " * 2 * BODY_MOST + b"]"), f"more than {BODY_MOST} bytes"),
    "half": (lambda one: one.garbage(b'[{"Service":{"Address":"10.0.0.9","Port":9}},{"Serv'), "no JSON"),
    "empty": (lambda one: one.empty(), "empty"),
    "filtered": (lambda one: one.filtered(), "the token may not read it"),
    "thousand": (lambda one: one.thousand(), "more than 256 instances"),
    "forgotten": (lambda one: one.forget_all(), "empty"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_keeps_the_list_and_is_over_soon(running: Consul, name: str) -> None:
    begin, text = FAULTS[name]
    with list_of(running) as made:
        until(lambda: running.waiting == 1, "it waits")
        before = len(running.requests)
        begin(running)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert urls(made) == {"1:1", "2:2"}
            time.sleep(0.01)
        if text:
            assert text in str(made.state.fault)
        running.remove("b")
        running.add("a", "10.0.0.1", 1)
        running.add("c", "10.0.0.3", 3)
        asked = len(running.requests) - before
        running.back()

        took = arrives(made, {"1:1", "3:3"}, RECOVERS)
        say(f"{name:10} over after {took * 1000:5.0f} ms; it was asked {asked} times in 1.5 s")
        assert asked <= 4
        running.add("d", "10.0.0.4", 4)
        arrives(made, {"1:1", "3:3", "4:4"})


@pytest.mark.parametrize("name", ["index_zero", "no_index", "churn"])
def test_an_index_that_is_none_is_no_fault_and_no_busy_loop(running: Consul, name: str) -> None:
    with list_of(running) as made:
        {"index_zero": running.index_zero, "no_index": running.no_index, "churn": running.churn}[name]()
        time.sleep(1.0)
        seen = len(running.requests)
        time.sleep(3.0)
        asked = len(running.requests) - seen
        assert made.state.fault is None
        running.add("c", "10.0.0.3", 3)
        arrives(made, {"1:1", "2:2", "3:3"})
        assert 5 <= asked <= 7
        running.back()
        running.remove("c")
        arrives(made, {"1:1", "2:2"})


def test_an_index_that_is_reset_is_survived(running: Consul) -> None:
    for _ in range(20):
        running.touch()
    with list_of(running) as made:
        until(lambda: running.waiting == 1, "it waits")
        running.reset_index()
        running.add("c", "10.0.0.3", 3)
        arrives(made, {"1:1", "2:2", "3:3"})
        running.remove("c")
        arrives(made, {"1:1", "2:2"})
        assert made.state.fault is None


def test_an_index_that_is_reset_behind_its_back_is_found_by_the_next_wait(running: Consul) -> None:
    for _ in range(20):
        running.touch()
    with list_of(running) as made:
        until(lambda: running.waiting == 1, "it waits")
        running.reset_index(quietly=True)
        running.add("c", "10.0.0.3", 3)
        arrives(made, {"1:1", "2:2", "3:3"}, NEXT_WAIT)
        running.remove("c")
        arrives(made, {"1:1", "2:2"})


def test_a_consul_that_comes_after_its_clients_is_found() -> None:
    late = Consul(port=free_port())
    made = Discovered(SERVICE, source_of(late.url), networks=[ipaddress.ip_network("10.0.0.0/8")])
    made.start()
    try:
        until(lambda: "no connection" in str(made.state.fault), "it is missed")
        late.add("a", "10.0.0.1", 1)
        late.start()
        arrives(made, {"1:1"}, RECOVERS)
    finally:
        made.stop()
        late.close()
        made._thread.join(2)


# What an answer may be on the wire.


@contextmanager
def speaks(*pieces: bytes, pause: float = 0.0) -> Iterator[str]:
    """Answer one connection with these pieces, whatever it asks, and end it."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            try:
                for piece in pieces:
                    connection.sendall(piece)
                    if over.wait(pause):
                        return
            except OSError:
                pass

    over = threading.Event()
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join(5)


HEAD = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [b"\x00" * 100],
        [b"HTTP/1.1 200"],
        [HEAD],
        [HEAD + b"Content-Length: 5\r\n\r\n[]"],
        [HEAD + b"Content-Length: x\r\n\r\n["],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n[]"],
        [HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"],
        [HEAD + b"X: " + b"x" * 200_000 + b"\r\n\r\n[]"],
        [HEAD + b"X: y\r\n" * 1000 + b"\r\n[]"],
        [HEAD + b"\r\n", *[b" " * 65536] * 1000],
        [HEAD + b"Content-Length: 99999999999\r\n\r\n", *[b" " * 65536] * 1000],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 1000],
        [b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 10],
    ],
    ids=range(16),
)
def test_whatever_is_said_is_a_fault_and_soon(pieces: list[bytes]) -> None:
    with speaks(*pieces) as url:
        source = source_of(url, TOKEN)
        begun = time.monotonic()
        with pytest.raises(SourceFailed) as caught:
            source.read()
        source.close()

    assert time.monotonic() - begun < 3.0
    assert len(str(caught.value)) < 100
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("head", [b"", HEAD + b"\r\n"], ids=("head", "body"))
def test_who_drips_is_not_waited_for_longer_than_who_is_silent(head: bytes) -> None:
    with speaks(head, *[b" "] * 1000, pause=0.2) as url:
        source = source_of(url)
        begun = time.monotonic()
        with pytest.raises(SourceFailed, match=r"^no answer in time$"):
            source.read()
        source.close()

    assert 4.5 < time.monotonic() - begun < 6.0


def test_no_proxy_of_the_environment_is_asked(running: Consul, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    source = source_of(running.url)

    assert len(source.read().addresses) == 2
    source.close()


def test_the_token_opens_and_is_in_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with consul(token=TOKEN) as one:
        one.add("a", "10.0.0.1", 1)
        one.add("b", "host.test", 1)
        with list_of(one, TOKEN) as made:
            assert urls(made) == {"1:1"}
            one.token = TOKEN + "x"
            one.touch()
            until(lambda: made.state.fault, "it is refused", ARRIVES)
            assert made.state.fault == "403: permission denied"
            one.refuse()
            until(lambda: made.state.fault != "403: permission denied", "it is gone", 2.0)
        broken = source_of(one.url, TOKEN + "\nX: y")
        one.back()
        with pytest.raises(SourceFailed) as caught:
            broken.read()
        broken.close()

    assert all(each.token for each in one.requests)
    assert "left out" in caplog.text
    assert TOKEN not in f"{caplog.text}{caught.getrepr(chain=True)}"


# The end.


@pytest.mark.parametrize("silent", [False, True], ids=("waits", "hangs"))
def test_close_ends_a_read_that_waits(running: Consul, silent: bool) -> None:
    source = source_of(running.url)
    source.read()
    if silent:
        running.hang()
    asked = len(running.requests)

    def waits() -> None:
        until(lambda: running.waiting == 1 or (silent and len(running.requests) > asked), "it waits")

    assert ends(source, waits) < 0.3
    with pytest.raises(SourceFailed, match=r"^closed$"):
        source.read()


def test_close_ends_a_read_whose_answer_drips() -> None:
    with speaks(HEAD + b"\r\n", *[b" "] * 1000, pause=0.2) as url:
        assert ends(source_of(url), lambda: time.sleep(0.5)) < 0.3


def test_close_ends_a_read_that_begins_in_the_same_moment(running: Consul) -> None:
    chosen = random.Random(3)
    for _ in range(per_form(60, 600)):
        source = source_of(running.url)
        source._index = 10**6  # it would wait
        assert ends(source, lambda: time.sleep(chosen.choice((0.0, 0.0005, 0.001, 0.002, 0.004)))) < 0.5
    until(lambda: running.waiting == 0, "nobody waits", 1.0)


def test_a_connection_that_comes_about_after_the_close_is_not_used(running: Consul) -> None:
    source = source_of(running.url)
    source._adapter.close()
    with pytest.raises(SourceFailed):
        source.read()
    time.sleep(0.1)

    assert running.requests == []


def test_no_thread_and_no_file_is_left() -> None:
    def files() -> int:
        return len(os.listdir("/dev/fd"))

    gc.collect()
    threads, before = set(threading.enumerate()), files()
    with consul() as one:
        with_consul = files()
        one.add("a", "10.0.0.1", 1)
        for begin in (Consul.touch, *(begin for begin, _ in FAULTS.values())):
            with list_of(one):
                begin(one)
                time.sleep(0.3)
            one.back()
            one.add("a", "10.0.0.1", 1)
        idle = source_of(one.url)
        idle.read()
        idle.close()
        until(lambda: files() == with_consul, "all connections are closed", 2.0)

    assert set(threading.enumerate()) == threads
    assert files() == before
