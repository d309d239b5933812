"""Replies are closed exactly once, whatever happens; streams end early when they are told to."""

import logging
from collections.abc import Callable

import pytest

from main_api.exchange import Reply, Stream, Trail


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
