"""Shared reads: one call for many readers, and each reader's own end of patience."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from auxiliary_service.aws.shared_reads import ReadKey, SharedReads
from auxiliary_service.errors import AwsError, AwsTimeout
from chassis.json_logs import request_context

KEY = ReadKey("Operation", ())
SOON = 0.06
LONG = 5.0


@pytest.fixture
def many() -> Any:
    with ThreadPoolExecutor(16) as pool:
        yield pool


class Held:
    """Work that waits until it is let go, and counts how often it was begun."""

    def __init__(self, result: Any = "result") -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.count = 0
        self.result = result

    def __call__(self, patience: Any) -> Any:
        self.count += 1
        self.begun.release()
        assert self.go.wait(LONG)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result(patience) if callable(self.result) else self.result


def test_eight_readers_one_call(many: Any, joined: threading.Semaphore) -> None:
    reads, work = SharedReads(4), Held({"a": 1})
    readers = [many.submit(reads.read, KEY, work, LONG) for _ in range(8)]
    for _ in readers:
        assert joined.acquire(timeout=LONG)
    work.go.set()
    assert [reader.result(LONG) for reader in readers] == [{"a": 1}] * 8
    assert work.count == 1


def test_nothing_is_kept_once_it_is_complete() -> None:
    reads, work = SharedReads(1), Held()
    work.go.set()
    assert [reads.read(KEY, work, LONG) for _ in range(3)] == ["result"] * 3
    assert work.count == 3
    assert reads._flights == {}


def test_other_arguments_are_another_call(many: Any, joined: threading.Semaphore) -> None:
    reads, work = SharedReads(4), Held()
    readers = [many.submit(reads.read, ReadKey("Operation", (flag,)), work, LONG) for flag in (True, False)]
    for _ in readers:
        assert work.begun.acquire(timeout=LONG)
    work.go.set()
    assert [reader.result(LONG) for reader in readers] == ["result"] * 2


def test_errors_are_shared_and_not_kept(many: Any, joined: threading.Semaphore) -> None:
    reads, work = SharedReads(4), Held(AwsError())
    readers = [many.submit(reads.read, KEY, work, LONG) for _ in range(3)]
    for _ in readers:
        assert joined.acquire(timeout=LONG)
    work.go.set()
    for reader in readers:
        with pytest.raises(AwsError):
            reader.result(LONG)
    assert work.count == 1
    assert reads._flights == {}


def test_each_reader_has_its_own_deadline(many: Any, joined: threading.Semaphore) -> None:
    reads, work = SharedReads(4), Held()
    patient = many.submit(reads.read, KEY, work, LONG)
    assert joined.acquire(timeout=LONG)
    began = time.monotonic()
    with pytest.raises(AwsTimeout):
        reads.read(KEY, work, SOON)
    assert time.monotonic() - began < 1
    work.go.set()
    assert patient.result(LONG) == "result"
    assert work.count == 1


def test_a_late_reader_with_more_time_extends_the_patience(
    many: Any, joined: threading.Semaphore, clock: Any
) -> None:
    reads = SharedReads(4, clock)
    work = Held(lambda patience: patience.lasts())
    first = many.submit(reads.read, KEY, work, 0.2)
    assert work.begun.acquire(timeout=LONG)
    late = many.submit(reads.read, KEY, work, LONG)
    for _ in range(2):
        assert joined.acquire(timeout=LONG)
    clock.now += 1
    with pytest.raises(AwsTimeout):
        first.result(LONG)
    work.go.set()
    assert late.result(LONG) is True
    assert work.count == 1


def test_patience_ends_50_ms_before_the_last_readers_time(clock: Any) -> None:
    def work(patience: Any) -> list[bool]:
        answers = [patience.lasts()]
        clock.now += 1.94
        answers.append(patience.lasts())
        clock.now += 0.02
        return [*answers, patience.lasts()]

    assert SharedReads(1, clock).read(KEY, work, 2.0) == [True, True, False]


def test_nobody_joins_a_read_that_has_given_up(many: Any, clock: Any) -> None:
    reads = SharedReads(4, clock)
    gave_up, go = threading.Event(), threading.Event()

    def work(patience: Any) -> str:
        clock.now += 10
        assert not patience.lasts()
        gave_up.set()
        assert go.wait(LONG)
        return "the first's"

    first = many.submit(reads.read, KEY, work, LONG)
    assert gave_up.wait(LONG)
    assert reads.read(KEY, lambda _: "the second's", LONG) == "the second's"
    go.set()
    assert first.result(LONG) == "the first's"


def test_with_less_than_50_ms_nothing_is_begun() -> None:
    work = Held()
    work.go.set()
    reads = SharedReads(1)
    for seconds in (0.049, 0, -1):
        with pytest.raises(AwsTimeout, match="the sentence"):
            reads.read(KEY, work, seconds, late="the sentence")
    assert reads.read(ReadKey("Next", ()), lambda _: "next", LONG) == "next"
    assert work.count == 0


def test_a_queued_read_whose_readers_have_left_is_never_begun(many: Any) -> None:
    reads, hanging, dropped = SharedReads(1), Held(), Held()
    first = many.submit(reads.read, ReadKey("Hanging", ()), hanging, LONG)
    assert hanging.begun.acquire(timeout=LONG)
    with pytest.raises(AwsTimeout):
        reads.read(KEY, dropped, SOON)
    dropped.go.set()
    hanging.go.set()
    assert first.result(LONG) == "result"
    # The one thread takes the queue in order: when this is answered, the other was dropped.
    assert reads.read(ReadKey("Next", ()), lambda _: "next", LONG) == "next"
    assert dropped.count == 0
    assert reads._flights == {}


def test_a_queued_read_is_begun_for_a_reader_who_came_later(many: Any, joined: threading.Semaphore) -> None:
    reads, hanging, work = SharedReads(1), Held(), Held()
    work.go.set()
    first = many.submit(reads.read, ReadKey("Hanging", ()), hanging, LONG)
    assert hanging.begun.acquire(timeout=LONG)
    with pytest.raises(AwsTimeout):
        reads.read(KEY, work, SOON)
    late = many.submit(reads.read, KEY, work, LONG)
    for _ in range(3):
        assert joined.acquire(timeout=LONG)
    hanging.go.set()
    assert (first.result(LONG), late.result(LONG), work.count) == ("result", "result", 1)


def test_who_must_leave_takes_what_was_offered(many: Any) -> None:
    go = threading.Event()

    def work(patience: Any) -> str:
        patience.offer("some")
        assert go.wait(LONG)
        return "all"

    reads = SharedReads(1)
    patient = many.submit(reads.read, KEY, work, LONG)
    assert reads.read(KEY, work, 0.2) == "some"
    go.set()
    assert patient.result(LONG) == "all"


def test_a_timeout_that_the_work_raises_is_its_own() -> None:
    def work(_: Any) -> Any:
        raise TimeoutError("of the work")

    with pytest.raises(TimeoutError, match="of the work"):
        SharedReads(1).read(KEY, work, LONG)


def test_log_lines_of_the_work_have_the_first_readers_id() -> None:
    seen = []
    token = request_context.set({"requestId": "first"})
    try:
        SharedReads(1).read(KEY, lambda _: seen.append(request_context.get()), LONG)
    finally:
        request_context.reset(token)
    assert seen == [{"requestId": "first"}]


def test_a_wait_that_ended_is_logged_with_the_operation_alone(caplog: pytest.LogCaptureFixture) -> None:
    work = Held()
    with caplog.at_level(logging.WARNING), pytest.raises(AwsTimeout):
        # Long enough for the call to begin on a busy machine: one that has not begun is not logged.
        SharedReads(1).read(ReadKey("GetParameter", ("a name",)), work, 0.5)
    work.go.set()
    (record,) = caplog.records
    assert record.fields == {"operation": "GetParameter"}
    assert "a name" not in record.getMessage()
