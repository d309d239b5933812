"""What the arbiter does before gunicorn's own handler of a stop: it leaves, soon, and once."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest

from auxiliary_service.registration import stopping
from auxiliary_service.registration.locks import FileLock
from auxiliary_service.registration.registry import RegistryFailed
from auxiliary_service.registration.stopping import SIGNALS, Departure, Leaving, leave_before_stopping


@pytest.fixture
def hung() -> Iterator[Callable[[], object]]:
    """A registry that does not answer as long as the test runs."""
    over = threading.Event()
    yield lambda: over.wait(30)
    over.set()


@pytest.fixture
def drain(tmp_path: Path) -> Path:
    return tmp_path / "draining"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def fails() -> None:
    raise RegistryFailed("is silent")


def departure(gate: Path, *ways: Callable[[], object]) -> Departure:
    return Departure("the registry", FileLock(gate), ways)


def test_it_returns_as_soon_as_the_registry_is_left(drain: Path, gate: Path) -> None:
    called: list[bool] = []
    begun = monotonic()
    Leaving(drain, [departure(gate, lambda: called.append(drain.exists()))], seconds=20, settle=0)()
    assert called == [True]
    assert monotonic() - begun < 10


def test_workers_are_shut_out_before_it_leaves_and_for_good(drain: Path, gate: Path) -> None:
    taken: list[bool] = []
    leaving = Leaving(
        drain, [departure(gate, lambda: taken.append(FileLock(gate).take()))], seconds=20, settle=0
    )
    leaving()
    assert taken == [False]
    assert not FileLock(gate).take()


def test_a_worker_that_is_just_registering_is_waited_for(drain: Path, gate: Path) -> None:
    worker = FileLock(gate)
    worker.take()
    order: list[str] = []

    def register() -> None:
        while not drain.exists():
            pass
        order.append("registered")
        worker.release()

    thread = threading.Thread(target=register, daemon=True)
    thread.start()
    Leaving(drain, [departure(gate, lambda: order.append("left"))], seconds=20, settle=0)()
    assert order == ["registered", "left"]
    thread.join(10)


def test_no_registry_delays_the_stop_for_longer_than_its_time(
    drain: Path, gate: Path, hung: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    begun = monotonic()
    Leaving(drain, [departure(gate, hung), departure(gate.with_name("other"), hung)], seconds=0.2)()
    assert 0.2 <= monotonic() - begun < 2
    assert "the registry does not answer in time" in caplog.text


def test_a_worker_that_hangs_with_the_gate_does_not_either(drain: Path, gate: Path) -> None:
    worker = FileLock(gate)
    worker.take()
    begun = monotonic()
    Leaving(drain, [departure(gate, lambda: None)], seconds=0.2)()
    assert monotonic() - begun < 2
    worker.release()


def test_all_in_all_it_is_less_than_a_second() -> None:
    assert stopping.LEAVE_SECONDS + stopping._TELL_SECONDS < 1


def test_one_way_is_enough_while_another_hangs(drain: Path, gate: Path, hung: Callable[[], object]) -> None:
    begun = monotonic()
    gone = departure(gate, hung, lambda: None)
    Leaving(drain, [gone], seconds=20, settle=0)()
    assert gone.left
    assert monotonic() - begun < 10


def test_one_failure_does_not_end_the_wait_for_the_other_way(drain: Path, gate: Path) -> None:
    failed = threading.Event()
    over: list[bool] = []

    def fail() -> None:
        failed.set()
        fails()

    def leave() -> None:
        failed.wait(10)
        over.append(gone.over.wait(0.1))

    gone = departure(gate, fail, leave)
    Leaving(drain, [gone], seconds=20, settle=0)()
    assert over == [False]
    assert gone.left


def test_when_all_ways_have_failed_nothing_is_waited_for(
    drain: Path, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = monotonic()
    Leaving(drain, [departure(gate, fails, fails)], seconds=20, settle=0)()
    assert monotonic() - begun < 10
    assert [record.getMessage() for record in caplog.records] == [
        "not deregistered before stopping: the registry is silent"
    ]


def test_a_fault_of_our_own_does_not_hold_up_the_stop(drain: Path, gate: Path) -> None:
    def bug() -> None:
        raise KeyError("a bug")

    begun = monotonic()
    gone = departure(gate, bug)
    Leaving(drain, [gone], seconds=20, settle=0)()
    assert (gone.left, gone.fault) == (False, "KeyError")
    assert monotonic() - begun < 10


@pytest.mark.parametrize(("way", "least"), [(lambda: None, 0.1), (fails, 0.0)], ids=["left", "not left"])
def test_who_was_answered_gives_the_others_a_moment_to_hear_of_it(
    drain: Path, gate: Path, way: Callable[[], object], least: float
) -> None:
    begun = monotonic()
    Leaving(drain, [departure(gate, way)], seconds=20, settle=0.1)()
    took = monotonic() - begun
    assert least <= took < 10
    assert stopping.SETTLE_SECONDS < stopping.LEAVE_SECONDS


def test_that_moment_is_not_added_to_the_time_of_all(
    drain: Path, gate: Path, hung: Callable[[], object]
) -> None:
    begun = monotonic()
    departures = [departure(gate, lambda: None), departure(gate.with_name("other"), hung)]
    Leaving(drain, departures, seconds=0.2, settle=20)()
    assert monotonic() - begun < 10


def test_it_leaves_once(drain: Path, gate: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    called: list[int] = []
    leaving = Leaving(drain, [departure(gate, lambda: called.append(1))], seconds=20, settle=0)
    leaving()
    leaving()
    assert called == [1]
    assert [record.getMessage() for record in caplog.records] == ["deregistered from the registry"]


@pytest.mark.parametrize("what", ["drain", "gate"])
def test_a_file_that_cannot_be_made_is_no_reason_to_stay(tmp_path: Path, what: str) -> None:
    places = {"drain": tmp_path / "drain", "gate": tmp_path / "gate", what: tmp_path / "missing" / "file"}
    gone = departure(places["gate"], lambda: None)
    Leaving(places["drain"], [gone], seconds=20, settle=0)()
    assert gone.left


def test_without_threads_the_stop_goes_on(drain: Path, gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    Leaving(drain, [departure(gate, lambda: None)])()
    assert drain.exists()


class Arbiter(SimpleNamespace):
    """gunicorn's arbiter, as far as a signal's handler sees it; ``order`` is what happened."""


@pytest.fixture
def arbiter() -> Iterator[Arbiter]:
    made = Arbiter(pid=os.getpid(), master_pid=0, reexec_pid=0, order=[])
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: made.order.append(signal.Signals(number).name))
    leave_before_stopping(made, lambda: made.order.append("left"))
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_whatever_stops_gunicorn_comes_after_leaving(arbiter: Arbiter, number: signal.Signals) -> None:
    signal.raise_signal(number)
    assert arbiter.order == ["left", number.name]


@pytest.mark.parametrize("changed", [{"pid": -1}, {"master_pid": 17}, {"reexec_pid": 17}], ids=str)
def test_a_forked_worker_and_one_of_two_arbiters_leave_nothing(
    arbiter: Arbiter, changed: dict[str, int]
) -> None:
    vars(arbiter).update(changed)
    signal.raise_signal(signal.SIGTERM)
    assert arbiter.order == ["SIGTERM"]
