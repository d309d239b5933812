"""A list that a real etcd gives: who joins and leaves is seen at once, what befalls etcd loses nobody."""

import gc
import ipaddress
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from main_api.upstream.discovery.discovered import Discovered
from main_api.upstream.discovery.etcd import EtcdSource
from main_api.upstream.discovery.source import Address, Listing, SourceFailed
from tests.end_to_end.processes import HOST, free_port, until
from tests.faults.etcd_server import EtcdServer, etcd_server
from tests.faults.support import per_form, say

NETWORKS = (ipaddress.ip_network("127.0.0.0/8"),)
# Seconds for a change to be in the list, and for a list to be right again once etcd is back.
CHANGED, RECOVERED = 1.0, 2.0
# Seconds for which a silent watch is believed.
CONFIRMED = 10.0
# One question's time, and the longest pause after a failure.
ASKED = 3.0


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with etcd_server() as running:
        yield running


def instance(number: int, weight: int = 1) -> str:
    """Write an instance as etcd's own naming package does."""
    return json.dumps({"Op": 0, "Addr": f"127.0.0.1:{3000 + number}", "Metadata": {"weight": weight}})


def address(number: int, weight: int = 1) -> Address:
    return Address("127.0.0.1", 3000 + number, weight)


def source_of(*endpoints: str) -> EtcdSource:
    return EtcdSource("etcd://services/s", "services/s", endpoints)


@contextmanager
def discovered(*endpoints: str) -> Iterator[Discovered]:
    """Keep a list of what is below ``services/s/``."""
    running = Discovered("s", source_of(*endpoints), networks=NETWORKS)
    running.start()
    try:
        yield running
    finally:
        running.stop()
        running._thread.join(ASKED)
        assert not running._thread.is_alive()


def numbers(running: Discovered) -> set[int]:
    return {int(each.url.rpartition(":")[2]) - 3000 for each in running()}


def listed(running: Discovered, expected: set[int], seconds: float = CHANGED) -> float:
    """Wait until the list is this one and is the newest; give the seconds that it took."""
    begun = time.monotonic()
    until(
        lambda: running.state.fault is None and numbers(running) == expected,
        f"{expected} are listed, and not {numbers(running)}",
        seconds,
    )
    return time.monotonic() - begun


def fault(running: Discovered, seconds: float) -> str:
    """Wait until a fault is shown, and give it."""
    return str(until(lambda: running.state.fault, "a fault is shown", seconds))


# What joins and leaves.


def test_what_is_put_is_listed_and_what_is_deleted_is_not(etcd: EtcdServer) -> None:
    etcd.put("services/s/0", instance(0))
    took = []
    with discovered(etcd.url) as running:
        listed(running, {0}, RECOVERED)
        for number in range(1, per_form(8, 50)):
            etcd.put(f"services/s/{number}", instance(number))
            took.append(listed(running, {0, number}))
            etcd.delete(f"services/s/{number}")
            took.append(listed(running, {0}))
    say(f"a change is in the list after {max(took) * 1000:.0f} ms at most")


def test_the_end_of_an_uproar_is_listed_within_a_second(etcd: EtcdServer) -> None:
    etcd.put("services/s/0", instance(0))
    with discovered(etcd.url) as running:
        listed(running, {0}, RECOVERED)
        for number in range(1, per_form(100, 250)):
            etcd.put(f"services/s/{number}", instance(number))
        took = listed(running, set(range(per_form(100, 250))))
    say(f"the last of many changes is in the list after {took * 1000:.0f} ms")


def test_only_what_is_below_the_prefix_and_of_use_is_listed(etcd: EtcdServer) -> None:
    etcd.put("services/s/1", instance(1, weight=7))
    for key, value in {
        "services/s": instance(2),
        "services/s0": instance(3),
        "services/t/1": instance(4),
        "services/s/junk": b"\xff\x00",
        "services/s/name": '{"Addr":"localhost:3005"}',
        "services/s/deep": "[" * 100_000,
    }.items():
        etcd.put(key, value)

    assert source_of(etcd.url).read() == Listing((address(1, 7),))


def test_proxies_of_the_environment_are_not_asked(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{HOST}:{free_port()}")
    etcd.put("services/s/1", instance(1))

    assert source_of(etcd.url).read() == Listing((address(1),))


def test_what_came_before_the_watch_is_listed_at_once(etcd: EtcdServer) -> None:
    """It is told in one message, in fragments as it is a long one; none of them is a list."""
    source = source_of(etcd.url)
    assert source.read().addresses == ()
    for number in range(40):
        etcd.put(f"services/s/{number}", f'{instance(number)[:-1]}, "x": "{"x" * 60_000}"}}')

    assert source.read().addresses == tuple(address(number) for number in range(40))
    etcd.delete("services/s/", "services/s0")
    assert source.read().addresses == ()
    source.close()


def test_a_monstrous_prefix_is_noticed(etcd: EtcdServer) -> None:
    """More keys than any service has are counted by etcd, and not sent."""
    for number in range(1025):
        etcd.put(f"services/s/{number}", "{}")

    with pytest.raises(SourceFailed, match=r"^more than 1024 keys$"):
        source_of(etcd.url).read()


# What befalls etcd.


def test_compaction_under_a_watch_loses_nothing(etcd: EtcdServer) -> None:
    etcd.put("services/s/1", instance(1))
    source = source_of(etcd.url)
    source.read()
    # What the watch would begin with is forgotten before it begins.
    etcd.put("services/s/2", instance(2))
    etcd.delete("services/s/1")
    etcd.compact(etcd.put("other", "x"))

    begun = time.monotonic()
    assert source.read().addresses == (address(2),)
    assert time.monotonic() - begun < CHANGED
    source.close()


def test_compaction_while_a_list_is_kept_is_not_noticed(etcd: EtcdServer) -> None:
    etcd.put("services/s/1", instance(1))
    with discovered(etcd.url) as running:
        listed(running, {1}, RECOVERED)
        for number in range(2, 12):
            etcd.compact(etcd.put(f"services/s/{number}", instance(number)))
        listed(running, set(range(1, 12)))


@pytest.mark.parametrize("end", [EtcdServer.stop, EtcdServer.kill])
def test_the_list_outlives_etcd(etcd: EtcdServer, end: Callable[[EtcdServer], None]) -> None:
    etcd.put("services/s/1", instance(1))
    etcd.put("services/s/2", instance(2))
    with discovered(etcd.url) as running:
        listed(running, {1, 2}, RECOVERED)
        end(etcd)
        assert fault(running, RECOVERED) == f"{HOST}:{etcd.port}: Connection refused"
        time.sleep(2.0)
        assert numbers(running) == {1, 2}

        etcd.start()
        took = listed(running, {1, 2}, RECOVERED)
        etcd.put("services/s/3", instance(3))
        listed(running, {1, 2, 3})
    say(f"{took * 1000:.0f} ms after etcd answered again the list was the newest")


def test_an_etcd_that_lost_its_data_takes_nobody_away(etcd: EtcdServer) -> None:
    for number in (1, 2):
        etcd.put(f"services/s/{number}", instance(number))
    with discovered(etcd.url) as running:
        listed(running, {1, 2}, RECOVERED)
        etcd.kill()
        etcd.wipe()
        etcd.start()
        until(lambda: running.state.fault == "an empty list", "the fault is shown", RECOVERED)
        assert numbers(running) == {1, 2}

        # Whoever registers anew is the truth; its revisions are small ones.
        etcd.put("services/s/2", instance(2))
        listed(running, {2}, RECOVERED)
        etcd.put("services/s/3", instance(3))
        listed(running, {2, 3})


def test_data_that_is_lost_between_list_and_watch_is_noticed(etcd: EtcdServer) -> None:
    """A watch from a revision that is still to come tells nothing, and etcd does not say so."""
    for number in range(5):
        etcd.put("services/s/1", instance(number))
    source = source_of(etcd.url)
    source.read()
    etcd.kill()
    etcd.wipe()
    etcd.start()
    etcd.put("services/s/1", instance(7))

    begun = time.monotonic()
    assert source.read().addresses == (address(7),)
    assert time.monotonic() - begun < CHANGED
    source.close()


def test_an_etcd_that_hangs_is_noticed_and_recovered_from(etcd: EtcdServer) -> None:
    etcd.put("services/s/1", instance(1))
    with discovered(etcd.url) as running:
        listed(running, {1}, RECOVERED)
        etcd.pause()
        begun = time.monotonic()
        assert fault(running, CONFIRMED + ASKED) == f"{HOST}:{etcd.port}: no answer in time"
        noticed = time.monotonic() - begun
        time.sleep(1.0)
        assert numbers(running) == {1}

        etcd.cont()
        took = listed(running, {1}, RECOVERED)
        etcd.put("services/s/2", instance(2))
        listed(running, {1, 2})
    say(f"a hanging etcd is noticed after {noticed:.1f} s, recovered from within {took * 1000:.0f} ms")


def test_a_list_without_changes_is_confirmed(etcd: EtcdServer) -> None:
    etcd.put("services/s/1", instance(1))
    source = source_of(etcd.url)
    first = source.read()
    begun = time.monotonic()

    assert source.read() == first
    assert CONFIRMED - 0.1 < time.monotonic() - begun < CONFIRMED + CHANGED
    etcd.put("services/s/2", instance(2))
    assert source.read().addresses == (address(1), address(2))
    source.close()


def test_the_next_endpoint_stands_in(etcd: EtcdServer) -> None:
    with etcd_server() as other:
        for each in (etcd, other):
            each.put("services/s/1", instance(1))
        with discovered(f"http://{HOST}:{free_port()}", etcd.url, other.url) as running:
            listed(running, {1}, RECOVERED)
            asked_at = running.state.listed_at
            etcd.kill()
            until(lambda: running.state.listed_at != asked_at, "the other one is asked", CHANGED)
            assert running.state.fault is None
            other.put("services/s/2", instance(2))
            listed(running, {1, 2})
            other.kill()
            # At first one of them may still be resetting what it had.
            until(lambda: (running.state.fault or "").count("Connection refused") == 3, "all refuse", 5)
            etcd.start()
            listed(running, {1}, RECOVERED)


class Middle:
    """Stands between a source and its etcd; after :meth:`mute` its connections are silent, not closed."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((HOST, self._to))
                muted = threading.Event()
                self._open.append((client, server, muted))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, target, muted), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, muted: threading.Event) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                if not muted.is_set():
                    target.sendall(piece)
        if not muted.is_set():
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)

    def mute(self) -> None:
        for _, _, muted in self._open:
            muted.set()

    def close(self) -> None:
        # Closing alone would leave the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client, server, _ in self._open:
            for each in (client, server):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()


def test_a_connection_that_is_dead_and_does_not_say_so_is_noticed(etcd: EtcdServer) -> None:
    etcd.put("services/s/1", instance(1))
    middle = Middle(etcd.port)
    try:
        with discovered(f"http://{HOST}:{middle.port}") as running:
            listed(running, {1}, RECOVERED)
            etcd.put("services/s/2", instance(2))
            listed(running, {1, 2})
            middle.mute()
            etcd.put("services/s/3", instance(3))
            took = listed(running, {1, 2, 3}, CONFIRMED + CHANGED)
            etcd.put("services/s/4", instance(4))
            listed(running, {1, 2, 3, 4})
    finally:
        middle.close()
    say(f"what a dead connection does not tell is listed after {took:.1f} s")


def reading(source: EtcdSource, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> list[str]:
    """Read in a thread, which is waited for after ``meanwhile``; give why it failed, if it has."""
    ended: list[str] = []

    def read() -> None:
        with pytest.raises(SourceFailed) as caught:
            source.read()
        ended.append(str(caught.value))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    meanwhile()
    thread.join(seconds)
    return ended


def answers(*pieces: bytes, pause: float) -> tuple[int, Callable[[], None]]:
    """Listen as an etcd that sends ``pieces``, again and again, with a pause behind each."""
    listener = socket.create_server((HOST, 0))
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, suppress(OSError):
                    client.sendall(pieces[0])
                    while not over.wait(pause):
                        for piece in pieces[1:]:
                            client.sendall(piece)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def close() -> None:
        over.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(ASKED)

    return listener.getsockname()[1], close


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
    ids=["head", "body", "chunks"],
)
def test_an_etcd_that_drips_holds_no_read_for_long(pieces: tuple[bytes, ...]) -> None:
    port, close = answers(*pieces, pause=0.1)
    try:
        ended = reading(source_of(f"http://{HOST}:{port}"), ASKED)
        assert ended == [f"{HOST}:{port}: no answer in time"]
    finally:
        close()


# The end.


@pytest.mark.parametrize("hanging", [False, True])
def test_close_ends_a_read_that_waits(etcd: EtcdServer, hanging: bool) -> None:
    etcd.put("services/s/1", instance(1))
    source = source_of(etcd.url)
    source.read()
    if hanging:
        etcd.pause()

    def close() -> None:
        time.sleep(0.5)
        source.close()

    assert reading(source, 0.2, close) == ["closed"]


def held() -> tuple[int, int]:
    """Count the file descriptors and the threads of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def test_neither_threads_nor_descriptors_grow(etcd: EtcdServer) -> None:
    etcd.put("services/s/0", instance(0))
    before = held()
    for round_ in range(per_form(3, 20)):
        with discovered(etcd.url) as running:
            listed(running, {0}, RECOVERED)
            for number in range(1, 6):
                etcd.put("services/s/1", instance(number))
                listed(running, {0, number})
                assert held()[0] <= before[0] + 2
            etcd.delete("services/s/1")
            listed(running, {0})
            if round_ == 0:
                etcd.stop()
                fault(running, RECOVERED)
                time.sleep(2.0)
                etcd.start()
                listed(running, {0}, RECOVERED)
        assert held() == before
