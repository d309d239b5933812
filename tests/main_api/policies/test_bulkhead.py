"""A service's share of the process: nobody waits for it, and what is taken comes back."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from main_api.errors import BrokenOff, Overloaded
from main_api.exchange import Call, Reply
from main_api.policies.bulkhead import Bulkhead
from tests.main_api.policies.fakes import answer, failing, streaming
from tests.main_api.support import call


def room(bulkhead: Bulkhead) -> int:
    """Count how many calls there is room for."""
    replies: list[Reply] = []
    try:
        while len(replies) < 100:
            replies.append(bulkhead(call(), answer))
    except Overloaded:
        pass
    for reply in replies:
        reply.close()
    return len(replies)


@pytest.mark.parametrize("size", [0, -1])
def test_a_share_of_nothing_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size"):
        Bulkhead(size)


@pytest.mark.parametrize("size", [1, 7])
def test_as_many_calls_have_room_as_said(size: int) -> None:
    assert room(Bulkhead(size)) == size


def test_one_more_is_turned_away_at_once_unsent_and_counted() -> None:
    refused: list[int] = []
    bulkhead = Bulkhead(1, refused=lambda: refused.append(1))
    bulkhead(call(), answer)

    with pytest.raises(Overloaded) as caught:
        bulkhead(call(), failing(AssertionError("it was sent")))

    assert caught.value.retry_after == 1
    assert refused == [1]


@pytest.mark.parametrize("error", [BrokenOff(), ValueError("x"), KeyboardInterrupt()])
def test_an_exception_passes_through_and_gives_the_place_back(error: BaseException) -> None:
    bulkhead = Bulkhead(2)

    for _ in range(3):
        with pytest.raises(type(error)) as caught:
            bulkhead(call(), failing(error))
        assert caught.value is error

    assert room(bulkhead) == 2


def test_the_place_is_held_until_the_reply_is_closed_and_comes_back_once() -> None:
    bulkhead = Bulkhead(2)
    reply = bulkhead(call(), answer)

    assert room(bulkhead) == 1
    reply.close()
    reply.close()
    assert room(bulkhead) == 2


def test_a_stream_holds_its_place_until_it_is_closed() -> None:
    bulkhead = Bulkhead(1)
    reply = bulkhead(call(), lambda _: streaming(b"a", b"b"))

    list(reply.body)
    assert room(bulkhead) == 0
    reply.close()
    assert room(bulkhead) == 1


def test_one_services_calls_take_nothing_of_anothers() -> None:
    one, other = Bulkhead(1), Bulkhead(1)
    one(call(), answer)

    assert room(one) == 0
    assert room(other) == 1


@pytest.mark.usefixtures("switching")
def test_never_more_are_inside_than_the_share() -> None:
    bulkhead = Bulkhead(3)
    together = threading.Barrier(32)
    lock = threading.Lock()
    inside = most = refused = 0

    def stay(_: Call) -> Reply:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1
        return Reply(200)

    def many(_: int) -> None:
        nonlocal refused
        together.wait(10)
        for _ in range(50):
            try:
                bulkhead(call(), stay).close()
            except Overloaded:
                with lock:
                    refused += 1

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(many, range(32)))

    assert most <= 3
    assert room(bulkhead) == 3
