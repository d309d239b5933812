"""Which address is announced, for which HOST."""

import logging
import socket
from typing import Any

import pytest

from auxiliary_service.registration.address import LocalAddress, local_end
from auxiliary_service.registration.registry import RegistryFailed

URL = "http://consul.example:8500"


class Ways:
    """Ways from this machine: to each host an address of ours, or an error."""

    def __init__(self, ways: dict[str, str | Exception]) -> None:
        self.ways = ways
        self.asked: list[tuple[str, int, int]] = []

    def __call__(self, host: str, port: int, family: int) -> str:
        self.asked.append((host, port, family))
        way = self.ways[host]
        if isinstance(way, Exception):
            raise way
        return way


def never(*_: Any) -> str:
    raise AssertionError("the way to the registry was looked for")


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "::1", "fd00::7"])
def test_a_certain_address_is_announced_as_it_is(host: str) -> None:
    assert LocalAddress(host, [URL], never)() == host


def test_a_name_is_announced_as_the_address_that_gunicorn_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def look_up(*arguments: Any) -> Any:
        asked.append(arguments)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.9.8.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert LocalAddress("pod.example", [URL], never)() == "10.9.8.7"
    assert asked == [("pod.example", None, socket.AF_INET)]


@pytest.mark.parametrize(
    ("host", "family"), [("0.0.0.0", socket.AF_INET), ("::", socket.AF_UNSPEC)], ids=["IPv4", "IPv6"]
)
def test_of_all_addresses_the_one_on_the_way_to_the_registry_is_announced(host: str, family: int) -> None:
    ways = Ways({"consul.example": "10.0.0.5"})
    assert LocalAddress(host, [URL], ways)() == "10.0.0.5"
    assert ways.asked == [("consul.example", 8500, family)]


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://consul.example", ("consul.example", 80)),
        ("https://consul.example", ("consul.example", 443)),
        ("https://[fd00::1]:8501", ("fd00::1", 8501)),
    ],
)
def test_the_ports_are_the_schemes(url: str, asked: tuple[str, int]) -> None:
    ways = Ways({asked[0]: "10.0.0.5"})
    LocalAddress("0.0.0.0", [url], ways)()
    assert ways.asked[0][:2] == asked


def test_a_zone_is_of_this_machine_and_not_announced() -> None:
    assert LocalAddress("::", [URL], Ways({"consul.example": "fe80::1%eth0"}))() == "fe80::1"


def test_the_next_registry_is_tried_when_there_is_no_way_to_the_first() -> None:
    ways = Ways({"a": OSError("no route"), "b": "10.0.0.6"})
    assert LocalAddress("0.0.0.0", ["http://a:1", "http://b:2"], ways)() == "10.0.0.6"


@pytest.mark.parametrize("error", [OSError("no route"), UnicodeError("a label too long")])
def test_without_a_way_it_is_said_what_to_set(error: Exception) -> None:
    with pytest.raises(RegistryFailed, match="SERVICE_ADDRESS"):
        LocalAddress("0.0.0.0", [URL], Ways({"consul.example": error}))()


def test_it_is_found_anew_each_time() -> None:
    ways = Ways({"consul.example": "10.0.0.5"})
    find = LocalAddress("0.0.0.0", [URL], ways)
    find()
    ways.ways["consul.example"] = "10.0.0.9"
    assert find() == "10.0.0.9"


def test_the_loopback_is_announced_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    find = LocalAddress("0.0.0.0", [URL], Ways({"consul.example": "127.0.0.1"}))
    assert [find(), find()] == ["127.0.0.1"] * 2
    [record] = caplog.records
    assert "SERVICE_ADDRESS" in record.getMessage()


def test_the_way_is_found_without_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: kinds.append((self.type, address)))
    monkeypatch.setattr(socket.socket, "getsockname", lambda self: ("10.0.0.5", 40000))
    assert local_end("192.0.2.1", 8500, socket.AF_INET) == "10.0.0.5"
    assert kinds == [(socket.SOCK_DGRAM, ("192.0.2.1", 8500))]
