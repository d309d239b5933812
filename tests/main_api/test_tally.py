"""What a worker counts: the right numbers, of the last ones only, in bounded room."""

import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from main_api.tally import Durations, Tally, percentiles

SECONDS = st.floats(min_value=0, max_value=1e6, allow_nan=False)
PERCENT = st.integers(1, 100)


@given(st.lists(SECONDS, max_size=60), st.integers(1, 20))
def test_the_last_durations_are_kept_and_no_others(added: list[float], size: int) -> None:
    durations = Durations(size)
    for each in added:
        durations.add(each)

    assert sorted(durations.kept()) == sorted(added[-size:])


def test_what_is_kept_later_does_not_change_what_was_given() -> None:
    durations = Durations(2)
    durations.add(1.0)
    given_before = durations.kept()
    durations.add(2.0)
    durations.add(3.0)

    assert list(given_before) == [1.0]


@given(st.lists(SECONDS, min_size=1), PERCENT)
def test_a_percentile_is_the_shortest_that_so_many_do_not_exceed(kept: list[float], percent: int) -> None:
    [found] = percentiles(kept, percent)

    assert found in kept
    assert 100 * sum(each <= found for each in kept) >= percent * len(kept)
    assert all(
        100 * sum(each <= shorter for each in kept) < percent * len(kept)
        for shorter in kept
        if shorter < found
    )


@given(st.lists(SECONDS, min_size=1), PERCENT, PERCENT)
def test_percentiles_do_not_depend_on_the_order_and_rise(kept: list[float], one: int, other: int) -> None:
    low, high = percentiles(kept, min(one, other), max(one, other))

    assert low <= high  # type: ignore[operator]
    assert percentiles(sorted(kept), one) == percentiles(sorted(kept, reverse=True), one)
    assert percentiles(kept, 100) == [max(kept)]


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentiles([], 50, 95, 99) == [None, None, None]


@pytest.mark.parametrize(
    ("count", "found"), [(1, [1, 1, 1]), (2, [1, 2, 2]), (20, [10, 19, 20]), (100, [50, 95, 99])]
)
def test_the_ranks_of_a_row_are_these(count: int, found: list[float]) -> None:
    assert percentiles([float(number) for number in range(count, 0, -1)], 50, 95, 99) == found


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["/a", "/b", "<unmatched>"]),
        st.sampled_from([200, 204, 304, 404, 502, 503]),
        st.sampled_from([None, "bad_gateway", "not_found"]),
        st.integers(0, 3),
        SECONDS,
    )
)


@given(REQUESTS)
def test_requests_are_counted_by_route_class_and_code(
    requests: list[tuple[str, int, str | None, int, float]],
) -> None:
    tally = Tally()
    for each in requests:
        tally.request(*each)

    routes = tally.routes()

    assert set(routes) == {route for route, *_ in requests}
    for route, found in routes.items():
        own = [each for each in requests if each[0] == route]
        assert found.requests == len(own)
        assert found.classes == Counter(f"{status // 100}xx" for _, status, *_ in own)
        assert found.errors == Counter(code for _, _, code, *_ in own if code)
        assert found.attempts == sum(attempts for *_, attempts, _ in own)
        assert sorted(found.durations) == sorted(seconds for *_, seconds in own)


def test_a_status_that_no_class_has_is_another() -> None:
    tally = Tally()
    tally.request("/a", 700, None, 0, 0.1)

    assert tally.routes()["/a"].classes == {"other": 1}


ATTEMPTS = st.lists(
    st.tuples(
        st.sampled_from(["s", "t"]),
        st.sampled_from(["http://a:1", "http://b:1"]),
        st.sampled_from(["2xx", "5xx", "gateway_timeout"]),
        SECONDS,
    )
)


@given(ATTEMPTS)
def test_attempts_are_counted_by_service_and_instance(attempts: list[tuple[str, str, str, float]]) -> None:
    tally = Tally()
    for each in attempts:
        tally.attempt(*each)

    for service in ("s", "t"):
        found = tally.service(service)
        own = [each for each in attempts if each[0] == service]
        assert found.attempts.attempts == len(own)
        assert found.attempts.outcomes == Counter(outcome for *_, outcome, _ in own)
        assert set(found.instances) == {url for _, url, *_ in own}
        for url, of_instance in found.instances.items():
            mine = [each for each in own if each[1] == url]
            assert of_instance.attempts == len(mine)
            assert of_instance.outcomes == Counter(outcome for *_, outcome, _ in mine)
            assert sorted(of_instance.durations) == sorted([seconds for *_, seconds in mine][-128:])


def test_of_a_route_the_last_1024_durations_are_kept_and_of_an_instance_the_last_128() -> None:
    tally = Tally()
    for number in range(3000):
        tally.request("/a", 200, None, 1, float(number))
        tally.attempt("s", "http://a:1", "2xx", float(number))

    service = tally.service("s")
    assert sorted(tally.routes()["/a"].durations) == [float(number) for number in range(3000 - 1024, 3000)]
    assert sorted(service.attempts.durations) == [float(number) for number in range(3000 - 1024, 3000)]
    assert sorted(service.instances["http://a:1"].durations) == [
        float(number) for number in range(3000 - 128, 3000)
    ]
    assert tally.routes()["/a"].requests == service.attempts.attempts == 3000


def test_retries_throttle_cache_and_room_are_counted_where_they_belong() -> None:
    tally = Tally()
    for reason in ("bad_gateway", "bad_gateway", "gateway_timeout"):
        tally.retried("s", reason)
    tally.throttled("s")
    for result in ("hit", "hit", "collapsed"):
        tally.cached("s", result)
    tally.refused("process")
    tally.refused("s")
    tally.refused("s")

    found = tally.service("s")
    assert found.retries == {"bad_gateway": 2, "gateway_timeout": 1}
    assert found.throttled == 1
    assert found.cached == {"hit": 2, "collapsed": 1}
    assert tally.turned_away() == {"process": 1, "s": 2}
    assert tally.service("t").retries == {}


def test_one_that_was_never_asked_has_nothing() -> None:
    found = Tally().service("s")

    assert (found.attempts.attempts, found.instances, found.throttled) == (0, {}, 0)
    assert Tally().routes() == {}


def test_an_instance_that_is_gone_is_forgotten_and_its_services_counts_stay() -> None:
    tally = Tally()
    tally.attempt("s", "http://a:1", "2xx", 0.1)
    tally.attempt("s", "http://b:1", "2xx", 0.1)

    tally.forget("s", "http://a:1")
    tally.forget("s", "http://never:1")
    tally.forget("never", "http://a:1")

    assert set(tally.service("s").instances) == {"http://b:1"}
    assert tally.service("s").attempts.attempts == 2


def test_what_it_gave_does_not_change() -> None:
    tally = Tally()
    tally.request("/a", 200, None, 0, 0.1)
    tally.attempt("s", "http://a:1", "2xx", 0.1)
    tally.retried("s", "x")
    before = tally.routes(), tally.service("s")

    tally.request("/a", 502, "bad_gateway", 0, 0.1)
    tally.attempt("s", "http://a:1", "5xx", 0.1)
    tally.retried("s", "x")

    assert before[0]["/a"].classes == {"2xx": 1}
    assert before[0]["/a"].errors == {}
    assert before[1].attempts.outcomes == before[1].instances["http://a:1"].outcomes == {"2xx": 1}
    assert before[1].retries == {"x": 1}


def test_names_that_nobody_counted_on_are_one() -> None:
    tally = Tally()
    for number in range(1000):
        tally.request("/a", 502, f"aws_{number}", 0, 0.1)

    errors = tally.routes()["/a"].errors
    assert len(errors) == 65
    assert errors["other"] == 1000 - 64


def test_instances_that_come_and_go_take_no_more_room_than_there_can_be_at_once() -> None:
    """An attempt may end after its instance was forgotten: nobody forgets it again."""
    tally = Tally()
    for number in range(2500):
        tally.attempt("s", f"http://{number}:1", "2xx", 0.1)
    tracemalloc.start()
    try:
        for number in range(2500, 10_000):
            tally.attempt("s", f"http://{number}:1", "2xx", 0.1)
            tally.forget("s", f"http://{number}:1") if number % 2 else None
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    instances = tally.service("s").instances
    assert len(instances) <= 2048
    assert "http://9998:1" in instances
    # What was replaced was made before and is not counted: at most as much as 2,048 of them take.
    assert grown < 2048 * 3000


@pytest.mark.usefixtures("switching")
def test_threads_lose_no_count() -> None:
    tally = Tally()
    together = threading.Barrier(4)

    def work(_: int) -> None:
        together.wait(10)
        for _ in range(50):
            tally.request("/a", 200, "x", 1, 0.1)
            tally.attempt("s", "http://a:1", "2xx", 0.1)
            tally.retried("s", "x")
            tally.throttled("s")
            tally.cached("s", "hit")
            tally.refused("process")
            tally.routes()
            tally.service("s")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))

    route, service = tally.routes()["/a"], tally.service("s")
    assert (route.requests, route.attempts, route.errors["x"]) == (200, 200, 200)
    assert (service.attempts.attempts, service.instances["http://a:1"].attempts) == (200, 200)
    assert (service.retries["x"], service.throttled, service.cached["hit"]) == (200, 200, 200)
    assert tally.turned_away() == {"process": 200}
