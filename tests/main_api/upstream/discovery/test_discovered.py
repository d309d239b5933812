"""The list that outlives its registry: what is taken, what is kept, and what is forgotten when."""

import ipaddress
import logging
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from main_api.exchange import Instance
from main_api.settings import Settings
from main_api.upstream.discovery.discovered import LISTED_MOST, Discovered
from main_api.upstream.discovery.source import Address, Listing, SourceFailed
from tests.main_api.policies.fakes import Clock

A, B, C = Address("10.0.0.1", 1), Address("10.0.0.2", 2), Address("fd00::3", 3, weight=7)
NETWORKS = Settings().upstream_networks


class Registry:
    """A source in a test's hands: gives ``says``, or raises it."""

    name = "test://service"

    def __init__(self, *says: Address) -> None:
        self.says: Listing | Exception = Listing(says, again=5.0)
        self.closed = False

    def gives(self, *addresses: Address) -> None:
        self.says = Listing(addresses, again=5.0)

    def read(self) -> Listing:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def close(self) -> None:
        self.closed = True


class Made:
    def __init__(self, registry: Registry, **options: object) -> None:
        self.registry = registry
        self.clock = Clock()
        self.told: list[str] = []
        self.list = Discovered(
            "s",
            registry,
            networks=NETWORKS,
            joined=lambda each: self.told.append(f"joined {each.url}"),
            gone=lambda each: self.told.append(f"gone {each.url}"),
            clock=self.clock,
            random=lambda: 0.5,
            **options,  # type: ignore[arg-type]
        )

    def urls(self) -> list[str]:
        return [each.url for each in self.list()]

    def after(self, seconds: float, *addresses: Address) -> list[str]:
        """Have the registry give these so many seconds later."""
        self.clock.now += seconds
        self.registry.gives(*addresses)
        self.list.refresh()
        return self.urls()


def test_before_the_first_list_there_is_nobody() -> None:
    made = Made(Registry(A))

    assert made.list() == ()
    assert (made.list.state.source, made.list.state.listed_at) == ("test://service", None)
    assert made.list.state.fault is not None


def test_what_is_listed_is_there_with_its_weight_and_when() -> None:
    made = Made(Registry(B, A, C))

    assert made.list.refresh() == 5.0

    assert made.list() == (
        Instance("s", "http://10.0.0.1:1"),
        Instance("s", "http://10.0.0.2:2"),
        Instance("s", "http://[fd00::3]:3"),
    )
    assert [each.weight for each in made.list()] == [1, 1, 7]
    assert made.told == ["joined http://10.0.0.1:1", "joined http://10.0.0.2:2", "joined http://[fd00::3]:3"]
    assert (made.list.state.fault, made.list.state.listed_at) == (None, 1000.0)
    assert [made.list.seen(each) for each in made.list()] == [1000.0] * 3


def test_the_order_of_a_registry_does_not_matter() -> None:
    made = Made(Registry(A, B))
    made.list.refresh()
    first = made.list()
    made.registry.gives(B, A)
    made.list.refresh()

    assert made.list() == first


def test_one_address_twice_is_one_instance() -> None:
    made = Made(Registry(A, Address(A.ip, A.port, 9), A))
    made.list.refresh()

    assert made.urls() == ["http://10.0.0.1:1"]


def test_who_leaves_is_not_asked_and_forgotten_a_minute_later() -> None:
    made = Made(Registry(A, B))
    made.list.refresh()
    [_, b] = made.list()

    assert made.after(1, A) == ["http://10.0.0.1:1"]
    assert made.list.seen(b) == 1000.0
    made.after(59, A)
    assert "gone http://10.0.0.2:2" not in made.told
    made.after(1, A)

    assert made.told[-1] == "gone http://10.0.0.2:2"
    assert made.list.seen(b) is None
    made.after(100, A)
    assert made.told.count("gone http://10.0.0.2:2") == 1


def test_who_comes_back_within_the_minute_is_the_same_one() -> None:
    made = Made(Registry(A, B))
    made.list.refresh()
    made.after(1, A)
    made.after(1, A, B)
    made.after(100, A, B)

    assert not any(each.startswith("gone") for each in made.told)


def test_many_who_left_are_not_remembered_for_a_minute() -> None:
    made = Made(Registry())
    for number in range(40):
        made.after(0.1, *(Address(f"10.{number}.0.{each}", 1) for each in range(100)))

    assert made.told.count("gone http://10.0.0.0:1") == 1
    assert len([each for each in made.told if each.startswith("gone")]) == 40 * 100 - 100 - 1024


FAULTS: dict[str, Callable[[Registry], None]] = {
    "fails": lambda registry: setattr(registry, "says", SourceFailed("503: no leader")),
    "is broken": lambda registry: setattr(registry, "says", KeyError("kvs")),
    "has lost all": lambda registry: registry.gives(),
    "has too many": lambda registry: registry.gives(
        *(Address(f"10.0.{number // 250}.{number % 250}", 1) for number in range(1000))
    ),
    "has only what is forbidden": lambda registry: registry.gives(Address("169.254.169.254", 80)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_while_the_registry_is_wrong_the_last_list_is_kept_and_said_to_be_old(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = Made(Registry(A, B))
    made.list.refresh()
    FAULTS[fault](made.registry)
    made.clock.now += 100

    with caplog.at_level(logging.INFO):
        pauses = [made.list.refresh() for _ in range(5)]

    assert made.urls() == ["http://10.0.0.1:1", "http://10.0.0.2:2"]
    assert made.list.state.fault
    assert made.list.state.listed_at == 1000.0
    # A registry that fails is asked again soon, one that works when it says so.
    works = fault.startswith("has")
    assert pauses == pytest.approx([5.0] * 5 if works else [0.225, 0.45, 0.9, 0.9, 0.9])
    said = [each.getMessage() for each in caplog.records if "are kept" in each.getMessage()]
    assert said == [f"test://service: {made.list.state.fault}; 2 instances of its last list are kept"]

    with caplog.at_level(logging.INFO):
        made.after(1, A)
    assert made.urls() == ["http://10.0.0.1:1"]
    assert (made.list.state.fault, made.list.state.listed_at) == (None, made.clock.now)
    assert "test://service: answers again, 1 instances" in caplog.text


def test_a_list_that_was_always_empty_is_no_fault() -> None:
    made = Made(Registry())
    made.list.refresh()

    assert (made.urls(), made.list.state.fault) == ([], None)


def test_as_many_as_are_allowed_are_taken() -> None:
    made = Made(Registry(*(Address("10.0.0.1", port) for port in range(1, LISTED_MOST + 1))))
    made.list.refresh()

    assert len(made.list()) == LISTED_MOST


@pytest.mark.parametrize(
    "ip", ["169.254.169.254", "8.8.8.8", "0.0.0.0", "100.128.0.1", "2001:db8::1", "fe80::1", "172.32.0.1"]
)
def test_what_is_outside_the_networks_is_left_out_and_said_once(
    ip: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = Made(Registry(A, Address(ip, 80)))
    for _ in range(3):
        made.list.refresh()

    assert made.urls() == ["http://10.0.0.1:1"]
    assert caplog.text.count(f"{ip} is outside UPSTREAM_NETWORKS and not asked") == 1
    made.registry.gives(A)
    made.list.refresh()
    made.registry.gives(A, Address(ip, 80))
    made.list.refresh()
    assert caplog.text.count(f"{ip} is outside UPSTREAM_NETWORKS and not asked") == 2


@pytest.mark.parametrize(
    "ip", ["127.0.0.1", "::1", "10.9.9.9", "172.31.0.1", "192.168.1.1", "100.64.0.1", "fd12::1"]
)
def test_what_is_inside_is_asked(ip: str) -> None:
    made = Made(Registry(Address(ip, 80)))
    made.list.refresh()

    assert len(made.list()) == 1


def test_an_own_network_takes_the_place_of_the_ordinary_ones() -> None:
    made = Made(Registry(A, Address("8.8.8.8", 80)))
    made.list._networks = (ipaddress.ip_network("8.8.8.0/24"),)
    made.list.refresh()

    assert made.urls() == ["http://8.8.8.8:80"]


def test_a_listener_that_fails_does_not_end_it() -> None:
    registry = Registry(A)

    def fail(_: Instance) -> None:
        raise OSError("no space")

    made = Discovered("s", registry, networks=NETWORKS, joined=fail)
    made.refresh()
    assert (made.state.fault, len(made())) == ("OSError", 1)
    made.refresh()
    assert (made.state.fault, len(made())) == (None, 1)


def test_it_ends_when_it_is_told_to() -> None:
    registry = Registry(A)
    registry.says = Listing((A,), again=0.0)
    made = Discovered("s", registry, networks=NETWORKS)
    made.start()
    made.stop()
    made._thread.join(10)

    assert registry.closed
    assert not made._thread.is_alive()


LISTS = st.lists(
    st.one_of(
        st.lists(st.sampled_from([A, B, C, Address("8.8.8.8", 1)]), max_size=4, unique=True),
        st.just("fails"),
    ),
    max_size=20,
)


@given(LISTS)
def test_whatever_it_gives_the_last_good_list_is_served(says: list[list[Address] | str]) -> None:
    made = Made(Registry())
    good: set[str] = set()
    for each in says:
        if isinstance(each, str):
            made.registry.says = SourceFailed(each)
        else:
            made.registry.gives(*each)
            allowed = {one.url for one in each if one.ip != "8.8.8.8"}
            good = allowed or good
        made.list.refresh()
        assert set(made.urls()) == good
