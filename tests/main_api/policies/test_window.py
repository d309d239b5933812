"""The window: forgets what is old, never what is young, and is asked in any order of times."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from main_api.policies.window import Window

# Gaps between calls; the long ones let all or nearly all go by.
GAPS = st.lists(
    st.tuples(st.one_of(st.floats(0, 3), st.sampled_from([0.0, 1.0, 9.0, 9.5, 10.0, 25.0])), st.booleans()),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e6), st.sampled_from([1.0, 10.0, 7.3, 600.0]), GAPS)
@example(0.0, 10.0, [(0.0, True)])
def test_what_is_older_never_counts_and_what_is_younger_than_nine_tenths_always_does(
    begin: float, seconds: float, gaps: list[tuple[float, bool]]
) -> None:
    window = Window(seconds)
    made: list[tuple[float, bool]] = []
    now = begin
    # Floats: a call that is old to the last bit may fall to either side.
    bit = 1e-9 * (1 + begin)
    for gap, failed in gaps:
        now += gap * seconds / 10
        window.add(now, failed)
        made.append((now, failed))

        calls, failures = window.totals(now)
        young = [each for when, each in made if now - when < 0.9 * seconds - bit]
        not_old = [each for when, each in made if now - when <= seconds + bit]
        assert len(young) <= calls <= len(not_old)
        assert sum(young) <= failures <= sum(not_old)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=40))
def test_by_whole_steps_it_is_exact(begin: int, gaps: list[tuple[int, bool]]) -> None:
    window = Window(10.0)
    made: list[tuple[int, bool]] = []
    now = begin
    for gap, failed in gaps:
        now += gap
        window.add(float(now), failed)
        made.append((now, failed))

        living = [each for when, each in made if now - when < 10]
        assert window.totals(float(now)) == (len(living), sum(living))


@pytest.mark.parametrize(
    ("later", "counted"), [(0.0, 1), (8.999, 1), (9.0, 1), (10.0, 0), (10.001, 0), (1e6, 0)]
)
def test_a_call_is_forgotten_when_it_is_old(later: float, counted: int) -> None:
    window = Window(10.0)
    window.add(1000.0, True)

    assert window.totals(1000.0 + later) == (counted, counted)


def test_nothing_counts_before_anything_was_added() -> None:
    for now in (0.0, 0.5, 9.0, 1e9):
        assert Window(10.0).totals(now) == (0, 0)


def test_a_place_that_is_used_again_forgets_what_was_there() -> None:
    window = Window(10.0)
    window.add(1000.0, True)
    window.add(1010.0, False)

    assert window.totals(1010.0) == (1, 0)


def test_cleared_it_is_as_new() -> None:
    window = Window(10.0)
    window.add(1000.0, True)
    window.clear()

    assert window.totals(1000.0) == (0, 0)
    window.add(1000.0, False)
    assert window.totals(1000.0) == (1, 0)
