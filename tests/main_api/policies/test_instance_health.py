"""What health checks found: how many it takes, what flapping does, and when they are not believed."""

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from main_api.exchange import Instance
from main_api.policies.instance_health import HealthThresholds, InstanceHealth, LastCheck
from tests.main_api.policies.fakes import Clock, letter, named

A, B, C, D, E = FIVE = named("abcde")


def health_of(**thresholds: int) -> tuple[InstanceHealth, list[tuple[str, bool]]]:
    told: list[tuple[str, bool]] = []
    health = InstanceHealth(
        HealthThresholds(**thresholds), lambda instance, healthy: told.append((letter(instance), healthy))
    )
    return health, told


def checked(health: InstanceHealth, instance: Instance, found: str) -> None:
    """Record a check for each letter: ``+`` for a good one, ``-`` for a bad one."""
    for each in found:
        health.record(instance, each == "+")


@pytest.mark.parametrize("field", ["unhealthy_after", "healthy_after"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_wrong_number_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        HealthThresholds(**{field: value})


def test_one_that_was_never_checked_is_healthy() -> None:
    assert health_of()[0].healthy(A)


@pytest.mark.parametrize(
    ("found", "healthy"),
    [
        ("-", True),
        ("--", True),
        ("---", False),
        ("--+--", True),
        ("+--+---", False),
        ("-+-+-+-+-", True),
        ("---+", False),
        ("---++", True),
        ("---+-+-+", False),
        ("---+-++", True),
        ("---++--", True),
        ("---++---", False),
        ("------++", True),
    ],
)
def test_three_bad_ones_in_a_row_take_out_and_two_good_ones_bring_back(found: str, healthy: bool) -> None:
    health, _ = health_of()

    checked(health, A, found)

    assert health.healthy(A) is healthy
    assert health.healthy(B)


@given(st.text("+-", max_size=40), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_what_counts_is_the_last_long_enough_row(
    found: str, unhealthy_after: int, healthy_after: int
) -> None:
    health, told = health_of(unhealthy_after=unhealthy_after, healthy_after=healthy_after)
    state, since, expected = True, "", []
    for number, each in enumerate(found):
        health.record(A, each == "+")
        since += each
        turned = since.endswith("-" * unhealthy_after if state else "+" * healthy_after)
        if turned:
            state, since = not state, ""
        if turned or number == 0:
            expected.append(("a", state))
        assert health.healthy(A) is state

    assert told == expected


def test_the_first_check_is_told_and_then_only_changes() -> None:
    health, told = health_of()

    checked(health, A, "++--+")
    checked(health, B, "--")
    assert told == [("a", True), ("b", True)]
    checked(health, B, "-")
    checked(health, B, "--+")
    assert told == [("a", True), ("b", True), ("b", False)]
    checked(health, B, "+")

    assert told[3:] == [("b", True)]


def test_a_first_check_that_takes_out_is_told_once() -> None:
    health, told = health_of(unhealthy_after=1)

    checked(health, A, "-")

    assert told == [("a", False)]


def test_the_last_check_is_kept_with_its_moment_and_the_last_cause_beside_it() -> None:
    clock = Clock()
    health = InstanceHealth(HealthThresholds(), clock=clock)
    assert health.last(A) is None

    health.record(A, True)
    assert health.last(A) == LastCheck(clock.now, True, None, None)

    clock.now += 5
    health.record(A, False, "status 503")
    assert health.last(A) == LastCheck(clock.now, False, "status 503", "status 503")

    clock.now += 5
    health.record(A, False, "TimeoutError")
    health.record(A, True)
    assert health.last(A) == LastCheck(clock.now, True, None, "TimeoutError")
    assert health.last(B) is None


def test_of_one_that_is_gone_nothing_is_left() -> None:
    health, _ = health_of()
    checked(health, A, "---")
    checked(health, B, "--")

    health.forget(A)
    health.forget(B)
    health.forget(C)

    assert health.last(A) is None
    assert health.healthy(A)
    # Nor is what it had against it.
    checked(health, A, "--")
    checked(health, B, "-")
    assert health.healthy(A)
    assert health.healthy(B)
    assert vars(health)["_last"].keys() == {A, B}


def test_the_listener_may_ask_back() -> None:
    seen: list[bool] = []

    def changed(instance: Instance, healthy: bool) -> None:
        seen.append(health.healthy(instance) is healthy)
        if len(seen) == 1:
            health.record(B, True)

    health = InstanceHealth(HealthThresholds(unhealthy_after=1), changed)
    health.record(A, False)

    assert seen == [True, True]


@pytest.mark.parametrize(
    ("listed", "ill", "usable"),
    [
        ("abc", "", "abc"),
        ("abc", "b", "ac"),
        ("abc", "bc", "abc"),
        ("abcd", "cd", "ab"),
        ("abcd", "bcd", "abcd"),
        ("abcde", "de", "abc"),
        ("abcde", "cde", "abcde"),
        ("ab", "a", "b"),
        ("ab", "ab", "ab"),
        ("a", "a", "a"),
        ("ab", "cde", "ab"),
        ("", "a", ""),
    ],
)
def test_the_ill_are_left_out_unless_fewer_than_half_would_stay(listed: str, ill: str, usable: str) -> None:
    health, _ = health_of(unhealthy_after=1)
    for each in named(ill):
        checked(health, each, "-")

    assert [letter(each) for each in health.usable(named(listed))] == list(usable)


def test_an_instance_stays_the_same_when_its_weight_changes() -> None:
    health, _ = health_of()

    checked(health, A, "---")

    assert not health.healthy(Instance(A.service, A.url, 9))
    assert health.healthy(Instance("another", A.url))


def test_taking_out_is_logged_as_a_warning_with_its_cause_and_coming_back_without_alarm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    health, _ = health_of()
    with caplog.at_level(logging.INFO, "main_api.policies.instance_health"):
        for _ in range(5):
            health.record(A, False, "status 503")
        for _ in range(5):
            health.record(A, True)

    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [
        (logging.WARNING, "health checks of http://a:1: unhealthy after 3 in a row: status 503"),
        (logging.INFO, "health checks of http://a:1: healthy after 2 in a row"),
    ]


def test_who_is_forgotten_is_as_one_that_was_never_checked() -> None:
    health, _ = health_of(unhealthy_after=2)
    checked(health, A, "--")
    checked(health, B, "-")
    assert not health.healthy(A)

    health.forget(A)
    health.forget(B)
    health.forget(C)

    assert health.healthy(A)
    assert health.usable([A, B]) == [A, B]
    checked(health, B, "-")
    assert health.healthy(B)


def test_one_that_joined_is_left_out_until_a_check_succeeds() -> None:
    health, _ = health_of()
    checked(health, A, "+")
    health.joined(B)

    assert health.unproven(B)
    assert health.healthy(B)
    assert health.usable([A, B]) == [A]
    checked(health, B, "-")
    assert health.usable([A, B]) == [A]
    checked(health, B, "+")
    assert (health.unproven(B), health.usable([A, B])) == (False, [A, B])
    checked(health, B, "-")
    assert health.usable([A, B]) == [A, B]


def test_where_all_have_just_joined_all_are_asked() -> None:
    health, _ = health_of()
    health.joined(A)
    health.joined(B)

    assert health.usable([A, B]) == [A, B]


def test_those_that_never_were_there_do_not_make_the_checks_unbelievable() -> None:
    """A registry that lists nonsense must not have the nonsense asked, as panic would."""
    health, _ = health_of(unhealthy_after=1)
    checked(health, A, "+")
    for each in (B, C, D, E):
        health.joined(each)
        checked(health, each, "-")

    assert health.usable(FIVE) == [A]


def test_one_that_was_checked_before_it_joined_again_is_not_new() -> None:
    health, _ = health_of()
    checked(health, A, "+")
    health.joined(A)

    assert not health.unproven(A)


def test_one_that_joined_and_is_forgotten_is_not_new() -> None:
    health, _ = health_of()
    health.joined(A)
    health.forget(A)

    assert not health.unproven(A)
