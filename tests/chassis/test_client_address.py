"""The client's address: the peer's, or one that a trusted proxy vouches for."""

import ipaddress
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.client_address import ClientAddress, Network

TRUSTED: list[Network] = [
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_network("192.0.2.7"),
    ipaddress.ip_network("fd00::/8"),
]
WARNING = "chassis.client_address"


def is_trusted(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(address in network for network in TRUSTED)


def plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether it is written one way: mapped and scoped addresses have tests of their own."""
    return getattr(address, "ipv4_mapped", None) is None


trusted = st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="fd00::/8")
untrusted = st.ip_addresses().filter(lambda address: not is_trusted(address) and plain(address))
ports = st.integers(0, 65535)


@st.composite
def as_written(draw: st.DrawFn, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Write an address in one of the ways that proxies do."""
    port = draw(ports)
    if address.version == 4:
        return draw(
            st.sampled_from([f"{address}", f"{address}:{port}", f"::ffff:{address}", f"[::ffff:{address}]:1"])
        )
    forms = [f"{address}", f"{address.exploded}", f"[{address}]", f"[{address}]:{port}", f"{address}".upper()]
    return draw(st.sampled_from(forms))


hops = trusted.flatmap(as_written)
gaps = st.sampled_from([",", ", ", " ,", "\t,  "])
# What an attacker puts there: addresses above all, and commas.
forged = st.text(st.characters(max_codepoint=255), max_size=40) | st.lists(
    st.ip_addresses().flatmap(as_written), max_size=4
).map(", ".join)


@settings(deadline=None)
@given(
    forged,
    untrusted.flatmap(lambda client: st.tuples(st.just(client), as_written(client))),
    st.lists(hops),
    gaps,
    hops,
)
def test_the_right_most_untrusted_entry_is_the_client_whatever_it_wrote_itself(
    forgery: str, client: tuple[Any, str], behind: list[str], gap: str, peer: str
) -> None:
    address, written = client
    header = gap.join([forgery, written, *behind])

    assert ClientAddress(TRUSTED)(peer, header) == str(address)


@settings(deadline=None)
@given(forged, untrusted)
def test_nothing_that_an_untrusted_peer_writes_is_believed(
    forgery: str, peer: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    assert ClientAddress(TRUSTED)(str(peer), forgery) == str(peer)
    assert ClientAddress(())(str(peer), forgery) == str(peer)


@settings(deadline=None)
@given(st.text(max_size=40), st.lists(hops), gaps, hops)
def test_an_entry_that_is_no_address_ends_the_search_at_the_last_proxy(
    garbage: str, behind: list[str], gap: str, peer: str
) -> None:
    header = gap.join(["203.0.113.1", f"!{garbage.replace(',', '')}", *behind])
    last = ClientAddress(TRUSTED)(behind[0] if behind else peer)

    assert ClientAddress(TRUSTED)(peer, header) == last


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_garbage_never_raises(peer: str, header: str) -> None:
    find = ClientAddress(TRUSTED)

    assert isinstance(find(peer, header), str)
    assert isinstance(find("10.0.0.1", header), str)
    ipaddress.ip_address(find("10.0.0.1", header))
    assert find.trusts(peer) in (True, False)


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "6.6.6.6, 198.51.100.1, 10.9.9.9", "198.51.100.1"),
        ("10.1.2.3", "6.6.6.6, 198.51.100.1, 10.9.9.9, fd00::1", "198.51.100.1"),
        ("10.1.2.3", "10.4.4.4, 10.9.9.9", "10.4.4.4"),
        ("10.1.2.3", "198.51.100.1, unknown, 10.9.9.9", "10.9.9.9"),
        ("10.1.2.3", "198.51.100.1, ", "10.1.2.3"),
        ("192.0.2.7", "198.51.100.1", "198.51.100.1"),
        ("192.0.2.8", "198.51.100.1", "192.0.2.8"),
        ("fd00::1", "2001:db8::5", "2001:db8::5"),
        ("fd00::1", "[2001:DB8::5]:443", "2001:db8::5"),
        ("fd00::1", "2001:db8:0:0:0:0:0:5", "2001:db8::5"),
        ("fd00::1", "198.51.100.1:4711", "198.51.100.1"),
        ("fd00::1", "fe80::1%eth0", "fe80::1"),
        ("::ffff:10.1.2.3", "::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.1.2.3", "198.51.100.256", "10.1.2.3"),
        ("10.1.2.3", "0x7f.1", "10.1.2.3"),
        ("10.1.2.3", "010.0.0.1", "10.1.2.3"),
        ("", "198.51.100.1", ""),
        ("", "", ""),
        # Nobody writes so many characters around an address.
        ("10.1.2.3", f"198.51.100.1, 198.51.100.2:{'8' * 100}", "10.1.2.3"),
        ("10.1.2.3", f"198.51.100.1, [2001:db8::5%{'e' * 100}]", "10.1.2.3"),
        ("10.1.2.3", f"{'9' * 200}, 198.51.100.1", "198.51.100.1"),
        ("fd00::1", f"[{'0000:' * 7}00ff%enp0s31f6.4094]:65535", "::ff"),
        ("10.1.2.3", "," * 16_000, "10.1.2.3"),
        ("10.1.2.3", "6.6.6.6" + ", 10.9.9.9" * 3_000, "6.6.6.6"),
    ],
)
def test_the_client_behind_a_peer(peer: str, header: str, client: str) -> None:
    assert ClientAddress(TRUSTED)(peer, header) == client


def test_nothing_long_is_remembered() -> None:
    find = ClientAddress(TRUSTED)
    find("10.0.0.1", "x" * 16_000)
    tracemalloc.start()
    try:
        for number in range(100):
            assert find("10.0.0.1", f"198.51.100.1, {number}{'x' * 16_000}") == "10.0.0.1"
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 100_000


@pytest.mark.parametrize(
    ("peer", "trusts"),
    [
        ("10.0.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("fd12::", True),
        ("11.0.0.1", False),
        ("", False),
        ("x", False),
    ],
)
def test_who_is_trusted(peer: str, trusts: bool) -> None:
    assert ClientAddress(TRUSTED).trusts(peer) is trusts
    assert ClientAddress(()).trusts(peer) is False


def test_a_private_peer_that_forwards_untrusted_is_one_warning_that_names_the_setting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    find = ClientAddress(TRUSTED)
    for peer in ("192.168.0.1", "192.168.0.1", "172.16.0.1"):
        find(peer, "198.51.100.1")

    [record] = [record for record in caplog.records if record.name == WARNING]
    assert record.levelname == "WARNING"
    assert "TRUSTED_PROXIES" in record.getMessage()
    assert "192.168.0.1" in record.getMessage()


@pytest.mark.parametrize(
    ("peer", "header"),
    [("8.8.8.8", "198.51.100.1"), ("192.168.0.1", ""), ("10.0.0.1", "198.51.100.1"), ("", "1.1.1.1")],
)
def test_anybody_else_is_no_warning(caplog: pytest.LogCaptureFixture, peer: str, header: str) -> None:
    ClientAddress(TRUSTED)(peer, header)

    assert caplog.records == []


def test_the_log_of_an_app_is_told_by_the_same_function(
    make_app: Callable[..., Flask], logged: Callable[..., list[dict[str, Any]]]
) -> None:
    client = make_app(trusted=TRUSTED).test_client()
    forwarded = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "198.51.100.1, 10.9.9.9")]
    client.get("/plain", headers=forwarded, environ_overrides={"REMOTE_ADDR": "10.0.0.1"})
    client.get("/plain", headers=forwarded, environ_overrides={"REMOTE_ADDR": "203.0.113.9"})
    client.get("/plain", environ_overrides={"REMOTE_ADDR": ""})

    assert [line["clientAddress"] for line in logged()] == ["198.51.100.1", "203.0.113.9", ""]
