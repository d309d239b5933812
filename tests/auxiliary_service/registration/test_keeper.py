"""What the keeper asks of a registry, when, and what it says of it."""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest

from auxiliary_service.registration.keeper import LAST_PAUSE, LOOK_SECONDS
from auxiliary_service.registration.registry import RegistryFailed

Kept = Any


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def _every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "auxiliary_service.registration")


def test_the_first_turn_registers(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    assert kept.turn() == ["register"]
    assert said(caplog) == ["registered with the registry"]


def test_a_registration_is_renewed_at_its_interval_and_not_repeated(kept: Kept) -> None:
    assert kept.run(9.5) == [(0, "register"), (3.0, "renew"), (6.0, "renew"), (9.0, "renew")]


def test_who_does_not_lead_asks_nothing_until_it_does(kept: Kept) -> None:
    kept.leads = False
    assert kept.run(5) == []
    kept.leads = True
    assert kept.turn() == ["register"]


def test_what_was_forgotten_is_registered_in_the_same_turn(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.turn()
    kept.registry.listed = False
    kept.now += 3
    assert kept.turn() == ["renew", "register"]
    assert kept.registry.listed
    assert said(caplog)[1:] == ["the registry has forgotten this instance", "registered with the registry"]


def test_that_it_was_forgotten_is_told_once_though_registering_fails(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.turn()
    kept.registry.listed = False
    kept.at_the_gate = lambda: setattr(kept.registry, "fault", RegistryFailed("is silent"))
    kept.now += 3
    assert kept.turn() == ["renew", "register"]
    assert [call for _, call in kept.run(1)] == ["register"] * 3
    assert said(caplog).count("the registry has forgotten this instance") == 1


def test_it_leaves_within_one_look_when_the_drain_begins(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.turn()
    kept.drains = True
    assert kept.run(LOOK_SECONDS) == [(0, "deregister")]
    assert not kept.registry.listed
    assert said(caplog)[-1] == "deregistered from the registry"


def test_while_it_drains_it_makes_sure_and_says_so_once(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.turn()
    kept.drains = True
    kept.turn()
    kept.registry.listed = True  # by an earlier call that hung somewhere
    assert kept.run(3.1) == [(3.0, "deregister")]
    assert not kept.registry.listed
    assert said(caplog).count("deregistered from the registry") == 1


def test_it_registers_again_when_the_drain_is_called_off(kept: Kept) -> None:
    kept.turn()
    kept.drains = True
    kept.turn()
    kept.drains = False
    assert kept.turn() == ["register"]


def test_who_begins_to_lead_while_it_drains_takes_off_what_another_left(kept: Kept) -> None:
    kept.drains = True
    kept.registry.listed = True
    assert kept.turn() == ["deregister"]
    assert not kept.registry.listed


def test_a_drain_that_begins_at_the_gate_is_seen_behind_it(kept: Kept) -> None:
    kept.at_the_gate = lambda: setattr(kept, "drains", True)
    assert kept.turn() == []
    assert kept.turn() == ["deregister"]


def test_what_failed_may_have_been_done_and_is_taken_off(kept: Kept) -> None:
    kept.registry.fault, kept.registry.done_all_the_same = RegistryFailed("is silent"), True
    kept.turn()
    kept.drains, kept.registry.fault = True, None
    assert kept.turn() == ["deregister"]
    assert not kept.registry.listed


def test_while_the_registry_is_away_it_is_asked_ever_less_but_each_second(kept: Kept) -> None:
    kept.registry.fault = RegistryFailed("is silent")
    moments = [moment for moment, _ in kept.run(6)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert gaps[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=1e-3)
    assert gaps[4:] == pytest.approx([LAST_PAUSE] * len(gaps[4:]), abs=1e-3)
    kept.registry.fault = None
    assert [call for _, call in kept.run(LAST_PAUSE + 0.01)] == ["register"]


def test_the_pauses_begin_anew_after_a_success(kept: Kept) -> None:
    kept.registry.fault = RegistryFailed("is silent")
    kept.run(5)
    kept.registry.fault = None
    kept.run(1.1)
    kept.registry.fault = RegistryFailed("is silent")
    moments = [moment for moment, _ in kept.run(6)]
    assert moments[1] - moments[0] == pytest.approx(0.1, abs=1e-3)


def test_a_failed_renewal_is_tried_again_and_is_no_reason_to_register(kept: Kept) -> None:
    kept.turn()
    kept.registry.fault = RegistryFailed("is silent")
    kept.now += 3
    assert kept.turn() == ["renew"]
    kept.registry.fault = None
    assert [call for _, call in kept.run(1)] == ["renew"]


def test_a_failed_departure_is_tried_again(kept: Kept) -> None:
    kept.turn()
    kept.drains, kept.registry.fault = True, RegistryFailed("is silent")
    assert kept.turn() == ["deregister"]
    kept.registry.fault = None
    assert [call for _, call in kept.run(0.2)] == ["deregister"]
    assert not kept.registry.listed


def test_a_drain_does_not_wait_for_the_end_of_a_pause(kept: Kept) -> None:
    kept.registry.fault = RegistryFailed("is silent")
    kept.run(6)
    kept.registry.fault, kept.drains = None, True
    assert kept.turn() == ["deregister"]


def test_an_outage_is_told_once_and_so_is_its_end(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.registry.fault = RegistryFailed("does not answer (TimeoutError)")
    kept.run(5)
    kept.registry.fault = RegistryFailed("answers with status 500")
    kept.run(5)
    kept.registry.fault = None
    kept.run(5)
    assert said(caplog) == [
        "the registry does not answer (TimeoutError); trying again",
        "the registry answers with status 500; trying again",
        "registered with the registry",
        "the registry answers again",
    ]


def test_a_fault_of_our_own_ends_nothing(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.registry.fault = KeyError("a bug")
    assert kept.turn() == ["register"]
    kept.registry.fault = None
    assert [call for _, call in kept.run(1)] == ["register"]
    assert any(record.exc_info for record in caplog.records)


def test_without_the_lock_nothing_is_asked_and_the_reason_is_told_once(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.leads = OSError("not a file of our own")
    assert kept.run(5) == []
    assert said(caplog) == ["the registry is not asked: not a file of our own; trying again"]
    kept.leads = True
    assert [call for _, call in kept.run(LAST_PAUSE)] == ["register"]


def test_the_pauses_and_intervals_are_shortened_at_random() -> None:
    from auxiliary_service.registration.keeper import Keeper

    class Registry:
        name, interval = "the registry", 3.0

        def register(self) -> None:
            pass

        def renew(self) -> bool:
            asked.append(now)
            return True

        def deregister(self) -> None:
            pass

    now, asked = 0.0, list[float]()
    keeper = Keeper(
        Registry(), leads=lambda: True, draining=lambda: False, clock=lambda: now, random=lambda: 1.0
    )
    while now < 2.5:
        now += keeper.turn()
    assert asked == [pytest.approx(2.4)]


def test_it_takes_turns_until_it_is_over(kept: Kept) -> None:
    kept.keeper.run()
    assert kept.waits == [LOOK_SECONDS] * 3
    assert kept.registry.taken() == ["register"]


def test_its_thread_ends_when_it_is_stopped(failed: Callable[[str], RegistryFailed]) -> None:
    from auxiliary_service.registration.keeper import Keeper

    class Registry:
        name, interval = "the registry", 3.0

        def register(self) -> None:
            keeper.stop()

        def renew(self) -> bool:
            return True

        def deregister(self) -> None:
            pass

    keeper = Keeper(Registry(), leads=lambda: True, draining=lambda: False)
    keeper.start()
    keeper._thread.join(10)
    assert not keeper._thread.is_alive()
    assert keeper._thread.daemon
