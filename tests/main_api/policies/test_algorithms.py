"""Whose turn it is: exact where the algorithm promises it, and fair where it does not."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from main_api.exchange import Call, Caller, Instance
from main_api.policies.algorithms import (
    Algorithm,
    ConsistentHash,
    LeastConnections,
    Random,
    RoundRobin,
    Weighted,
    hash_key,
)
from tests.main_api.policies.fakes import ALMOST_ONE, Clock, call_at, letter, named
from tests.main_api.support import call

CALL = call()


def picks(algorithm: Algorithm, candidates: Sequence[Instance], times: int) -> str:
    return "".join(letter(algorithm.pick(candidates, CALL)) for _ in range(times))


def together(algorithm: Algorithm, candidates: Sequence[Instance], times: int) -> Counter[str]:
    """Pick ``times`` from each of 8 threads."""
    begin = threading.Barrier(8)

    def many(_: int) -> str:
        begin.wait(10)
        return picks(algorithm, candidates, times)

    with ThreadPoolExecutor(8) as threads:
        return Counter("".join(threads.map(many, range(8))))


def test_round_robin_takes_turns_exactly() -> None:
    assert picks(RoundRobin(), named("abc"), 7) == "abcabca"


def test_round_robin_does_not_look_at_weights() -> None:
    assert picks(RoundRobin(), named("ab", (9, 1)), 4) == "abab"


@pytest.mark.usefixtures("switching")
def test_round_robin_is_fair_under_threads() -> None:
    assert together(RoundRobin(), named("abc"), 300) == {"a": 800, "b": 800, "c": 800}


def test_round_robin_reaches_each_whoever_is_left_out() -> None:
    algorithm = RoundRobin()

    assert Counter(picks(algorithm, named("abd"), 300)) == {"a": 100, "b": 100, "d": 100}
    assert Counter(picks(algorithm, named("abcd"), 400)) == {"a": 100, "b": 100, "c": 100, "d": 100}


def test_the_least_busy_one_is_chosen() -> None:
    busy = dict(zip(named("abc"), (3, 1, 2), strict=True))

    assert picks(LeastConnections(busy.__getitem__), named("abc"), 4) == "bbbb"
    assert picks(LeastConnections(busy.__getitem__), named("ac"), 4) == "cccc"


def test_equally_busy_ones_take_turns() -> None:
    busy = dict(zip(named("abc"), (1, 2, 1), strict=True))

    assert picks(LeastConnections(busy.__getitem__), named("abc"), 4) == "acac"


def test_the_load_is_looked_at_anew_each_time() -> None:
    busy = dict.fromkeys(named("abc"), 0)
    algorithm = LeastConnections(busy.__getitem__)
    for _ in range(30):
        busy[algorithm.pick(named("abc"), CALL)] += 1

    assert list(busy.values()) == [10, 10, 10]


def test_weighted_has_the_smooth_order_of_nginx() -> None:
    assert picks(Weighted(), named("abc", (5, 1, 1)), 14) == "aabacaa" * 2
    assert picks(Weighted(), named("ab", (3, 1)), 8) == "aaba" * 2


def test_equal_weights_take_turns() -> None:
    assert picks(Weighted(), named("abc", (4, 4, 4)), 6) == "abcabc"


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_over_a_full_cycle_the_proportions_are_exact(weights: list[int]) -> None:
    instances = named("abcdef"[: len(weights)], weights)
    algorithm = Weighted()

    for _ in range(3):
        counted = Counter(picks(algorithm, instances, sum(weights)))
        assert counted == {letter(each): each.weight for each in instances}


@pytest.mark.usefixtures("switching")
def test_weighted_is_exact_under_threads() -> None:
    assert together(Weighted(), named("abc", (5, 1, 1)), 350) == {"a": 2000, "b": 400, "c": 400}


@pytest.mark.parametrize("seed", range(5))
def test_leaving_one_out_now_and_then_does_not_change_the_proportions_of_the_others(seed: int) -> None:
    chance = random.Random(seed)
    instances = named("abc", (4, 2, 3))
    algorithm = Weighted()
    counted: Counter[str] = Counter()
    present = 0

    for _ in range(3000):
        there = chance.random() < 0.5
        present += there
        counted[picks(algorithm, instances if there else instances[:2], 1)] += 1

    assert counted["a"] == pytest.approx(2 * counted["b"], rel=0.05)
    assert counted["c"] == pytest.approx(present / 3, rel=0.05)


def test_one_that_comes_back_gets_its_share_and_nothing_for_the_time_it_was_away() -> None:
    instances = named("abc", (2, 1, 1))
    algorithm = Weighted()
    picks(algorithm, instances, 40)
    assert Counter(picks(algorithm, instances[:2], 300)) == {"a": 200, "b": 100}

    assert Counter(picks(algorithm, instances, 8)) == {"a": 4, "b": 2, "c": 2}


def test_a_weight_that_changes_counts_from_the_next_turn() -> None:
    algorithm = Weighted()
    picks(algorithm, named("ab", (1, 1)), 10)

    assert Counter(picks(algorithm, named("ab", (3, 1)), 40)) == {"a": 30, "b": 10}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 17, 100, 1023, 1024, 1025])
def test_a_random_choice_is_in_range_at_both_ends(size: int) -> None:
    instances = tuple(Instance("s", f"http://{number}:1") for number in range(size))

    assert Random(lambda: 0.0).pick(instances, CALL) == instances[0]
    assert Random(lambda: ALMOST_ONE).pick(instances, CALL) == instances[-1]


def test_each_is_as_likely_as_another() -> None:
    numbers = iter([each / 900 for each in range(900)])

    assert Counter(picks(Random(lambda: next(numbers)), named("abc"), 900)) == {"a": 300, "b": 300, "c": 300}


def by(key: str) -> Callable[[Call], str]:
    return lambda _: key


def homes(instances: Sequence[Instance], keys: int) -> list[Instance]:
    """Give where each key is at home."""
    return [ConsistentHash(by(f"key-{number}")).pick(instances, CALL) for number in range(keys)]


def test_the_same_key_is_always_at_home_with_the_same_instance() -> None:
    instances = named("abcde")

    first = homes(instances, 200)

    assert homes(instances, 200) == first
    assert homes(instances[::-1], 200) == first
    assert len(set(first)) == 5


def test_every_worker_of_every_gateway_agrees_on_it() -> None:
    # Known beforehand, so no seed of a process and no version may change it.
    assert "".join(letter(each) for each in homes(named("abcde"), 24)) == "bbecebaecccbbceaebdaacda"


@pytest.mark.parametrize("size", [3, 5, 10])
def test_when_one_leaves_only_its_own_keys_move_and_they_come_back_with_it(size: int) -> None:
    instances = named("abcdefghij"[:size])
    before = homes(instances, 3000)

    share = Counter(before)
    assert all(abs(share[each] - 3000 / size) <= 0.25 * 3000 / size for each in instances)

    gone = instances[size // 2]
    after = homes([each for each in instances if each != gone], 3000)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(moved) == share[gone]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != gone)
    # To all others alike.
    expected = share[gone] / (size - 1)
    assert all(abs(count - expected) <= 4 * expected**0.5 for count in Counter(moved).values())
    assert len(set(moved)) == size - 1

    assert homes(instances, 3000) == before


def test_keys_are_shared_by_weight() -> None:
    counted = Counter(letter(each) for each in homes(named("abc", (1, 2, 3)), 6000))

    assert counted["a"] == pytest.approx(1000, rel=0.1)
    assert counted["b"] == pytest.approx(2000, rel=0.1)
    assert counted["c"] == pytest.approx(3000, rel=0.1)


def test_more_weight_only_draws_keys_to_it() -> None:
    before, after = homes(named("abc"), 1000), homes(named("abc", (1, 1, 2)), 1000)

    assert {letter(new) for old, new in zip(before, after, strict=True) if old != new} == {"c"}


@given(st.text(st.characters()))
@example(chr(0xD800))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_key(key: str) -> None:
    instances = named("abc")

    assert ConsistentHash(by(key)).pick(instances, CALL) == ConsistentHash(by(key)).pick(instances, CALL)


@pytest.mark.parametrize(
    "key", ["", "\0", "ü", chr(0xDC80), chr(0xD800), f"a{chr(0xDFFF)}b", "😀"], ids=ascii
)
def test_strange_text_is_a_key_too(key: str) -> None:
    assert ConsistentHash(by(key)).pick(named("abc"), CALL) in named("abc")


@pytest.mark.parametrize("length", [10, 63, 64, 65, 66, 500])
def test_addresses_of_any_length_are_told_apart(length: int) -> None:
    instances = tuple(Instance("s", f"http://{'a' * (length - 8)}{end}") for end in "xyz")

    assert {each.url for each in homes(instances, 100)} == {each.url for each in instances}


def test_a_path_is_hashed_with_its_query() -> None:
    key = hash_key("path")

    assert key(call("/p", query=[("a", "b")])) == key(call("/p", query=[("a", "b")]))
    different = [
        call("/p"),
        call("/q", query=[("a", "b")]),
        call("/p", query=[("a", "c")]),
        call("/p", query=[("b", "b")]),
        call("/p", query=[("a", "b"), ("a", "b")]),
        call("/p", query=[("a", "b")]),
    ]
    assert len({key(each) for each in different}) == len(different)


def test_a_caller_is_its_subject_or_its_address() -> None:
    key, clock = hash_key("caller"), Clock()

    assert key(call_at(clock, caller=Caller("192.0.2.1", "alice"))) == "alice"
    assert key(call_at(clock, caller=Caller("192.0.2.1"))) == "192.0.2.1"
    assert key(call_at(clock, caller=Caller("192.0.2.1", ""))) == "192.0.2.1"


def test_a_header_is_the_clients_own() -> None:
    key, clock = hash_key("header:X-Tenant"), Clock()

    assert key(call_at(clock, client_header={"X-Tenant": "7"}.get)) == "7"
    assert key(call_at(clock)) == ""


@pytest.mark.parametrize(
    "given_by", ["", "paths", "Path", "header", "header:", "headers:x", "caller:x", ":x"]
)
def test_what_cannot_be_hashed_by_is_refused(given_by: str) -> None:
    with pytest.raises(ValueError, match="path, caller or header:<name> needed"):
        hash_key(given_by)


def test_weights_of_instances_that_are_no_more_are_not_kept() -> None:
    weighted = Weighted()
    staying = Instance("s", "http://stays:1", 2)
    for number in range(5000):
        weighted.pick([staying, Instance("s", f"http://a:{number + 1}", 1)], call())

    assert len(weighted._credit) <= 1026
    picks = [weighted.pick([staying, Instance("s", "http://last:1", 1)], call()) for _ in range(300)]
    assert 190 <= picks.count(staying) <= 210
