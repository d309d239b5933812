"""The half-open state under threads that all come at once."""

import sys
import threading
from collections.abc import Iterator

import pytest

from main_api.policies.circuit_breaker import Breaker, BreakerSettings, State, Verdict
from tests.faults.support import per_form, say

THREADS = 64


@pytest.fixture
def hasty() -> Iterator[None]:
    """Have the interpreter change threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty")
def test_half_open_never_admits_a_fourth_call() -> None:
    rounds = per_form(10_000, 50_000)
    now = [0.0]
    breaker = Breaker(BreakerSettings(), clock=lambda: now[0])
    gate, done = threading.Barrier(THREADS + 1), threading.Barrier(THREADS + 1)
    admitted: list[int] = []
    over = threading.Event()

    def knock() -> None:
        while True:
            gate.wait(60)
            if over.is_set():
                return
            ticket = breaker.admit()
            if ticket is not None:
                admitted.append(ticket)
            done.wait(60)

    threads = [threading.Thread(target=knock, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    counts = set()
    for number in range(rounds):
        while breaker.state is not State.OPEN:
            ticket = breaker.admit()
            assert ticket is not None
            breaker.record(ticket, Verdict.FAILURE)
        now[0] += 61
        admitted.clear()
        gate.wait(60)
        done.wait(60)
        counts.add(len(admitted))
        assert breaker.state is State.HALF_OPEN
        # By turns it closes and is opened anew, or opens again at once.
        for ticket in admitted:
            breaker.record(ticket, Verdict.SUCCESS if number % 2 else Verdict.FAILURE)
    over.set()
    gate.wait(60)
    for thread in threads:
        thread.join(10)

    say(f"{rounds} rounds of {THREADS} threads: admitted {counts}")
    assert counts == {3}
