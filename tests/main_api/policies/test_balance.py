"""Round robin: exact, and fair when many threads ask at once."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from main_api.errors import UpstreamUnavailable
from main_api.exchange import Call, Instance, Reply
from main_api.policies.balance import Balance
from tests.main_api.support import call

THREE = tuple(Instance("s", f"http://{name}:1") for name in "abc")


def answer(asked: Call) -> Reply:
    assert asked.instance is not None
    return Reply(200, (("x-url", asked.instance.url),))


def url(balance: Balance) -> str | None:
    return balance(call(instance=None), answer).header("x-url")


def test_instances_take_turns_exactly() -> None:
    balance = Balance(THREE)

    assert [url(balance) for _ in range(7)] == [f"http://{name}:1" for name in "abcabca"]


def test_turns_are_fair_under_threads() -> None:
    balance = Balance(THREE)
    together = threading.Barrier(8)

    def many(_: int) -> list[str | None]:
        together.wait(10)
        return [url(balance) for _ in range(300)]

    with ThreadPoolExecutor(8) as threads:
        counted = Counter(each for urls in threads.map(many, range(8)) for each in urls)

    assert set(counted.values()) == {800}


def test_no_instance_is_unavailable_and_nothing_is_sent() -> None:
    sent: list[Call] = []

    def proceed(asked: Call) -> Reply:
        sent.append(asked)
        return Reply(200)

    with pytest.raises(UpstreamUnavailable):
        Balance(())(call(), proceed)
    assert sent == []


def test_the_call_itself_is_not_changed_and_all_else_goes_on() -> None:
    asked = call("/p", query=[("a", "b")], instance=None, headers=(("h", "v"),))
    seen: list[Call] = []

    def proceed(sent: Call) -> Reply:
        seen.append(sent)
        return Reply(200)

    Balance(THREE)(asked, proceed)

    assert asked.instance is None
    assert seen[0].instance == THREE[0]
    assert (seen[0].path, seen[0].query, seen[0].deadline) == (asked.path, asked.query, asked.deadline)
    assert seen[0].trail is asked.trail


def test_an_error_passes_through_and_the_next_turn_is_the_next_instances() -> None:
    balance = Balance(THREE)

    def fail(_: Call) -> Reply:
        raise UpstreamUnavailable

    with pytest.raises(UpstreamUnavailable):
        balance(call(), fail)
    assert url(balance) == "http://b:1"
