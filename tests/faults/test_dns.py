"""A list that a real name server gives: changes are seen when a TTL ends, what befalls it loses nobody."""

import gc
import ipaddress
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from main_api.upstream.discovery.discovered import Discovered
from main_api.upstream.discovery.dns import AddressRecords, ServiceRecords
from main_api.upstream.discovery.source import Address, Source, SourceFailed
from tests.end_to_end.processes import HOST, free_port, until
from tests.faults.dns_server import DnsServer, dns_server
from tests.faults.support import per_form, say

NETWORKS = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
NAME, SERVICE, PORT = "s.test", "_http._tcp.s.test", 3001
# Seconds beyond its TTL for a change to be in the list, for a list to be right again once the server is
# back, and for one read.
LATE, RECOVERED, READ = 1.0, 2.0, 2.0
A_MOMENT = 0.3


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with dns_server() as running:
        yield running


def addresses_of(*servers: tuple[str, int]) -> AddressRecords:
    return AddressRecords(f"dns://{NAME}:{PORT}", NAME, PORT, servers=servers)


def services_of(*servers: tuple[str, int]) -> ServiceRecords:
    return ServiceRecords(f"srv://{SERVICE}", SERVICE, servers=servers)


@contextmanager
def discovered(source: Source) -> Iterator[Discovered]:
    """Keep the list that a source gives."""
    running = Discovered("s", source, networks=NETWORKS)
    running.start()
    try:
        yield running
    finally:
        running.stop()
        running._thread.join(READ + A_MOMENT)
        assert not running._thread.is_alive()


def urls(running: Discovered) -> set[str]:
    return {each.url.removeprefix("http://") for each in running()}


def listed(running: Discovered, expected: set[str], seconds: float) -> float:
    """Wait until the list is this one and is the newest; give the seconds that it took."""
    begun = time.monotonic()
    until(
        lambda: running.state.fault is None and urls(running) == expected,
        f"{expected} are listed, and not {urls(running)}",
        seconds,
    )
    return time.monotonic() - begun


def faulty(running: Discovered, fault: str, seconds: float) -> None:
    until(lambda: running.state.fault == fault, f"{fault} and not {running.state.fault}", seconds)


# What changes.


@pytest.mark.parametrize("ttl", [0, 1, 3])
def test_a_changed_record_is_listed_when_its_ttl_ends(ttl: int) -> None:
    took = []
    with dns_server(ttl) as server:
        server.names({NAME: ["127.0.0.1"]})
        with discovered(addresses_of(server.server)) as running:
            listed(running, {"127.0.0.1:3001"}, RECOVERED)
            for number in range(2, per_form(4, 20)):
                time.sleep(random.uniform(0, 0.7))
                server.names({NAME: ["127.0.0.1", f"127.0.0.{number}", "::1"]})
                expected = {"127.0.0.1:3001", f"127.0.0.{number}:3001", "[::1]:3001"}
                took.append(listed(running, expected, ttl + LATE))
    say(f"with a TTL of {ttl} s a change is in the list after {max(took):.2f} s at most")


def test_changed_services_are_listed_when_their_ttl_ends(server: DnsServer) -> None:
    server.names({"a.test": ["127.0.0.1"], "b.test": ["127.0.0.2"], "c.test": ["127.0.0.3"]})
    server.services({SERVICE: ["10 5 3001 a.test.", "10 0 3002 b.test.", "20 1 3003 c.test."]})
    with discovered(services_of(server.server)) as running:
        listed(running, {"127.0.0.1:3001", "127.0.0.2:3002"}, RECOVERED)
        assert {each.url[-1]: each.weight for each in running()} == {"1": 5, "2": 1}

        # It is gone for a moment, which may be noticed: dnsmasq reads SRV records when it starts.
        server.services({SERVICE: ["20 1 3003 c.test."]})
        listed(running, {"127.0.0.3:3003"}, 1 + LATE + RECOVERED)
        server.names({"c.test": ["127.0.0.4"]})
        listed(running, {"127.0.0.4:3003"}, 1 + LATE)


def test_a_target_that_is_gone_is_left_out(server: DnsServer) -> None:
    server.names({"a.test": ["127.0.0.1"]})
    server.services({SERVICE: ["10 1 3001 a.test.", "10 1 3002 b.test.", "10 1 0 a.test."]})

    assert services_of(server.server).read().addresses == (Address("127.0.0.1", 3001),)


def test_an_alias_is_followed(server: DnsServer) -> None:
    server.names({"a.test": ["127.0.0.1"]})
    server.services({}, aliases={NAME: "a.test"})

    assert addresses_of(server.server).read().addresses == (Address("127.0.0.1", PORT),)


def test_an_answer_that_is_too_long_for_udp_is_whole(server: DnsServer) -> None:
    many = [f"127.0.1.{number}" for number in range(100)]
    server.names({NAME: many})

    assert {each.ip for each in addresses_of(server.server).read().addresses} == set(many)


# What befalls the server.

FAULTS = {
    "stopped": (DnsServer.stop, DnsServer.start, "A of s.test: no answer in time"),
    "killed": (DnsServer.kill, DnsServer.start, "A of s.test: no answer in time"),
    "hanging": (DnsServer.pause, DnsServer.cont, "A of s.test: no answer in time"),
    "forgetful": (
        lambda server: server.names({}),
        lambda server: server.names({NAME: ["127.0.0.1", "127.0.0.2"]}),
        "s.test: no such name",
    ),
}


@pytest.mark.parametrize(("begin", "end", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_the_list_outlives_the_server(
    server: DnsServer,
    begin: Callable[[DnsServer], None],
    end: Callable[[DnsServer], None],
    fault: str,
) -> None:
    both = {"127.0.0.1:3001", "127.0.0.2:3001"}
    server.names({NAME: ["127.0.0.1", "127.0.0.2"]})
    with discovered(addresses_of(server.server)) as running:
        listed(running, both, RECOVERED)
        begin(server)
        faulty(running, fault, 1 + READ + LATE)
        time.sleep(random.uniform(1.0, 3.0))
        assert urls(running) == both

        end(server)
        took = listed(running, both, RECOVERED)
        server.names({NAME: ["127.0.0.3"]})
        listed(running, {"127.0.0.3:3001"}, 1 + LATE)
    say(f"{took * 1000:.0f} ms after the server answered again the list was the newest")


def test_a_second_server_stands_in(server: DnsServer) -> None:
    server.names({NAME: ["127.0.0.1"]})
    begun = time.monotonic()

    found = addresses_of((HOST, free_port()), server.server).read()

    assert found.addresses == (Address("127.0.0.1", PORT),)
    assert time.monotonic() - begun < READ


def test_a_server_that_refuses_is_a_fault_at_once(server: DnsServer) -> None:
    """dnsmasq knows nobody to ask about other names than its own."""
    source = AddressRecords("dns://s.example:1", "s.example", 1, servers=[server.server])
    begun = time.monotonic()

    with pytest.raises(SourceFailed, match=r"^A of s\.example: REFUSED$"):
        source.read()
    assert time.monotonic() - begun < A_MOMENT


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[tuple[str, int]]:
    """Answer over UDP with what ``answer`` makes of a question, many times."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((HOST, 0))

        def serve() -> None:
            while True:
                question, client = listener.recvfrom(4096)
                if not question:
                    return
                for _ in range(20):
                    listener.sendto(answer(question), client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"", listener.getsockname())
            thread.join(READ)


@pytest.mark.parametrize(
    "answer",
    [
        lambda question: b"x",
        lambda question: os.urandom(300),
        # The question itself; an answer to another question; one whose end is missing.
        lambda question: question,
        lambda question: bytes([question[0] ^ 1]) + question[1:2] + b"\x81\x80" + question[4:],
        lambda question: question[:2] + b"\x81\x80" + question[4:6] + b"\x00\x09" + question[8:],
    ],
    ids=["a byte", "noise", "an echo", "another id", "cut off"],
)
@pytest.mark.parametrize("make", [addresses_of, services_of])
def test_nonsense_is_a_fault_and_holds_no_read_for_long(
    make: Callable[..., Source], answer: Callable[[bytes], bytes]
) -> None:
    with answering(answer) as server:
        begun = time.monotonic()
        with pytest.raises(SourceFailed):
            make(server).read()
        assert time.monotonic() - begun < READ + A_MOMENT


# The end.


def test_close_ends_a_read_that_waits(server: DnsServer) -> None:
    server.names({NAME: ["127.0.0.1"]})
    source = addresses_of(server.server)
    source.read()
    server.pause()
    ended: list[str] = []

    def read() -> None:
        with pytest.raises(SourceFailed) as caught:
            source.read()
        ended.append(str(caught.value))

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.5)
    begun = time.monotonic()
    source.close()
    thread.join(10)

    assert len(ended) == 1
    assert time.monotonic() - begun < READ
    with pytest.raises(SourceFailed, match=r"^closed$"):
        source.read()


def held() -> tuple[int, int]:
    """Count the file descriptors and the threads of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def test_neither_threads_nor_descriptors_grow(server: DnsServer) -> None:
    many = [f"127.0.1.{number}" for number in range(100)]
    server.names({NAME: many, "a.test": ["127.0.0.1"]})
    server.services({SERVICE: ["10 1 3001 a.test."]})
    before = held()
    sources: list[Source] = [addresses_of(server.server), services_of(server.server)]
    for _ in range(per_form(50, 500)):
        assert [len(source.read().addresses) for source in sources] == [100, 1]
    assert held() == before
    server.pause()
    for source in sources:
        with pytest.raises(SourceFailed):
            source.read()
    assert held() == before
    server.cont()
    for _ in range(3):
        with discovered(addresses_of(server.server)) as running:
            listed(running, {f"{ip}:3001" for ip in many}, RECOVERED)
    assert held() == before
