"""Replies are closed exactly once, whatever happens; streams end early when they are told to."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from main_api.exchange import Instance, Reply, Stream, Trail
from tests.main_api.support import call


def noting(notes: list[str], what: str) -> Callable[[], None]:
    return lambda: notes.append(what)


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_finishers_run_once_the_last_one_first() -> None:
    notes: list[str] = []
    reply = Reply(200)
    for name in ("first", "second", "third"):
        reply.on_close(noting(notes, name))

    reply.close()
    reply.close()

    assert notes == ["third", "second", "first"]


def test_a_stream_is_closed_after_what_was_added_to_its_reply() -> None:
    notes: list[str] = []
    reply = Reply(200, body=Stream(iter([b"a"]), noting(notes, "stream")))
    reply.on_close(noting(notes, "policy"))

    reply.close()
    reply.close()

    assert notes == ["policy", "stream"]


def test_a_finisher_that_raises_keeps_no_other_from_running_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes: list[str] = []
    reply = Reply(200)
    reply.on_close(noting(notes, "first"))
    reply.on_close(failing(RuntimeError("a bug")))
    reply.on_close(noting(notes, "last"))

    reply.close()

    assert notes == ["last", "first"]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


def test_what_is_added_to_a_closed_reply_runs_at_once_and_once() -> None:
    notes: list[str] = []
    reply = Reply(200)
    reply.close()

    reply.on_close(noting(notes, "late"))
    assert notes == ["late"]

    reply.close()
    assert notes == ["late"]


def test_what_a_finisher_adds_while_closing_runs_too() -> None:
    notes: list[str] = []
    reply = Reply(200)
    reply.on_close(lambda: reply.on_close(noting(notes, "added")))

    reply.close()

    assert notes == ["added"]


def test_a_finisher_that_closes_again_does_nothing_twice() -> None:
    notes: list[str] = []
    reply = Reply(200)
    reply.on_close(noting(notes, "first"))
    reply.on_close(reply.close)
    reply.on_close(noting(notes, "last"))

    reply.close()

    assert notes == ["last", "first"]


def test_a_stream_gives_its_pieces_and_can_be_ended_early() -> None:
    notes: list[str] = []
    stream = Stream(iter([b"a", b"b", b"c"]), noting(notes, "closed"))

    pieces = iter(stream)
    assert next(pieces) == b"a"
    stream.close()

    assert notes == ["closed"]


@pytest.mark.parametrize("name", ["ETag", "etag", "ETAG"])
def test_a_header_is_found_in_any_case_and_the_first_wins(name: str) -> None:
    assert Reply(200, (("X", "0"), ("Etag", "1"), ("ETAG", "2"))).header(name) == "1"


def test_a_header_that_is_not_there_is_none() -> None:
    assert Reply(200).header("ETag") is None


def test_a_trail_adds_the_attempts_up() -> None:
    trail = Trail()
    assert trail.upstream_seconds is None

    trail.waited(0.25)
    trail.waited(0.5)

    assert trail.upstream_seconds == 0.75


def test_a_trail_is_one_for_all_attempts_of_a_call() -> None:
    first = call()
    second = replace(first, fresh=True)

    second.trail.asked.append(Instance("s", "http://a:1"))

    assert first.trail.asked == [Instance("s", "http://a:1")]
    assert call().trail.asked == []


# What became of a stream.


def breaking(error: BaseException) -> Iterator[bytes]:
    yield b"a"
    raise error


def test_a_stream_is_complete_once_its_last_piece_was_taken_and_not_before() -> None:
    stream = Stream(iter([b"a", b"b"]), lambda: None)
    pieces = iter(stream)
    assert [stream.complete, next(pieces), next(pieces), stream.complete] == [False, b"a", b"b", False]

    assert next(pieces, None) is None

    assert (stream.complete, stream.error) == (True, None)


def test_a_stream_of_nothing_is_complete_when_that_was_found_out() -> None:
    stream = Stream(iter([]), lambda: None)
    assert not stream.complete

    assert list(stream) == []
    assert stream.complete


def test_a_stream_that_breaks_keeps_what_broke_it_and_raises_it() -> None:
    error = ConnectionResetError("gone")
    stream = Stream(breaking(error), lambda: None)

    with pytest.raises(ConnectionResetError) as caught:
        list(stream)

    assert caught.value is error
    assert (stream.complete, stream.error) == (False, error)


@pytest.mark.parametrize("read", [0, 1, 2])
def test_a_stream_that_the_client_left_is_neither_complete_nor_broken(read: int) -> None:
    stream = Stream(iter([b"a", b"b"]), lambda: None)
    pieces = iter(stream)
    for _ in range(read):
        next(pieces)

    stream.close()
    pieces.close()  # type: ignore[attr-defined]  # as a server drops it

    assert (stream.complete, stream.error) == (False, None)


@pytest.mark.parametrize("ending", [GeneratorExit(), KeyboardInterrupt(), SystemExit()])
def test_the_end_of_the_process_is_no_fault_of_the_stream(ending: BaseException) -> None:
    stream = Stream(breaking(ending), lambda: None)

    with pytest.raises(type(ending)):
        list(stream)
    assert (stream.complete, stream.error) == (False, None)


# When an instance is done.


def test_the_instance_of_a_whole_reply_is_done_at_once_and_once() -> None:
    notes: list[str] = []
    reply = Reply(200, body=b"whole")

    reply.on_settled(noting(notes, "settled"))
    assert notes == ["settled"]

    reply.close()
    assert notes == ["settled"]


def test_the_instance_of_a_stream_is_done_at_its_close_and_once() -> None:
    notes: list[str] = []
    reply = Reply(200, body=Stream(iter([b"a"]), noting(notes, "stream")))
    reply.on_settled(noting(notes, "settled"))

    assert isinstance(reply.body, Stream)
    assert list(reply.body) == [b"a"]
    assert notes == []
    reply.close()
    reply.close()

    assert notes == ["settled", "stream"]


def test_the_instance_of_a_stream_that_is_closed_already_is_done_at_once() -> None:
    notes: list[str] = []
    reply = Reply(200, body=Stream(iter([b"a"]), lambda: None))
    reply.close()

    reply.on_settled(noting(notes, "late"))

    assert notes == ["late"]


# Instances.


def test_an_instance_stays_the_same_when_its_weight_changes() -> None:
    light, heavy = Instance("s", "http://a:1"), Instance("s", "http://a:1", weight=7)

    assert light == heavy
    assert len({light, heavy}) == 1
    assert {light: "kept"}[heavy] == "kept"
    assert (light.weight, heavy.weight) == (1, 7)


@pytest.mark.parametrize("other", [Instance("s", "http://b:1"), Instance("t", "http://a:1")])
def test_an_instance_is_told_by_service_and_address(other: Instance) -> None:
    assert Instance("s", "http://a:1") != other
