"""Pipelines: built once, in the declared order, or not at all."""

from time import monotonic

import pytest

from chassis.errors import Forbidden
from main_api.errors import Overloaded, UpstreamUnavailable
from main_api.exchange import Call, Instance, Proceed, Reply
from main_api.policies.retry import RetrySettings
from main_api.routing.pipeline import Parts, build
from main_api.routing.route import Documentation, Route, ToFunction, ToService
from tests.main_api.support import call, parts, service

A, B = Instance("s", "http://a:1"), Instance("s", "http://b:1")
LINKS = ("admission", "retry", "balance", "breaker", "send")
SCOPES = {("decrypt", "true"): "parameters:decrypt"}


def route(end: ToService | ToFunction) -> Route:
    return Route(name="some-route", rule="/x", end=end, documentation=Documentation("", "text/plain"))


def noting(seen: list[Call]) -> Proceed:
    def send(asked: Call) -> Reply:
        seen.append(asked)
        return Reply(200)

    return send


def one(seen: list[Call]) -> Parts:
    return parts(service(noting(seen)))


def two(seen: list[Call]) -> Parts:
    return parts(service(noting(seen), A.url, B.url))


def test_an_unknown_service_is_an_error_that_names_route_and_service() -> None:
    with pytest.raises(ValueError, match=r"some-route.*'elsewhere'"):
        build(route(ToService("elsewhere", "/p")), one([]))


def test_a_function_is_a_pipeline_of_one_link() -> None:
    pipeline = build(route(ToFunction(lambda asked: Reply(204, (("x-path", asked.path),)))), one([]))

    assert pipeline.links == ("function",)
    assert pipeline(call("/p")).header("x-path") == "/p"


def test_a_service_is_reached_through_its_links_in_their_order() -> None:
    seen: list[Call] = []
    pipeline = build(route(ToService("s", "/p", SCOPES)), one(seen))

    pipeline(call("/p", instance=None))

    assert pipeline.links == ("scopes", *LINKS)
    assert seen[0].instance == A


def test_a_link_that_answers_itself_leaves_the_rest_unasked() -> None:
    seen: list[Call] = []
    pipeline = build(route(ToService("s", "/p", SCOPES)), one(seen))

    with pytest.raises(Forbidden):
        pipeline(call(query=[("decrypt", "true")]))
    assert seen == []


def test_what_is_refused_takes_no_instances_turn() -> None:
    seen: list[Call] = []
    pipeline = build(route(ToService("s", "/p", SCOPES)), two(seen))

    with pytest.raises(Forbidden):
        pipeline(call(query=[("decrypt", "true")]))
    pipeline(call())

    assert [each.instance for each in seen] == [A]


def test_what_is_not_asked_for_is_no_link() -> None:
    assert build(route(ToService("s", "/p")), one([])).links == LINKS


def test_routes_to_one_service_share_its_turns() -> None:
    seen: list[Call] = []
    shared = two(seen)
    first, second = (build(route(ToService("s", "/p")), shared) for _ in range(2))

    for pipeline in (first, second, first):
        pipeline(call())

    assert [each.instance for each in seen] == [A, B, A]


def test_a_bulkhead_that_is_asked_for_stands_before_the_retries() -> None:
    shared = parts(service(noting([]), bulkhead=2))

    assert build(route(ToService("s", "/p")), shared).links == (
        "admission",
        "bulkhead",
        "retry",
        "balance",
        "breaker",
        "send",
    )


@pytest.mark.parametrize(("slots", "bulkhead"), [(1, None), (2, 1)], ids=["process", "service"])
def test_routes_to_one_service_share_its_room(slots: int, bulkhead: int | None) -> None:
    refused: list[Exception] = []

    def send(asked: Call) -> Reply:
        if asked.path == "/outer":
            with pytest.raises(Overloaded) as caught:
                inner(call("/inner"))
            refused.append(caught.value)
        return Reply(200)

    shared = parts(service(send, bulkhead=bulkhead), slots=slots)
    outer, inner = (build(route(ToService("s", path)), shared) for path in ("/outer", "/inner"))

    outer(call("/outer")).close()
    assert len(refused) == 1
    assert inner(call("/inner")).status == 200


def test_two_services_share_the_process_and_nothing_else() -> None:
    """One that is asked for more than its share leaves the other's untouched."""
    seen: list[Call] = []

    def send(asked: Call) -> Reply:
        with pytest.raises(Overloaded):
            itself(call())
        other(call())
        return Reply(200)

    shared = parts(service(send, bulkhead=1), service(noting(seen), name="other", bulkhead=1))
    itself, other = (build(route(ToService(name, "/p")), shared) for name in ("s", "other"))

    itself(call())

    assert len(seen) == 1


def test_each_attempt_is_balanced_anew_and_the_slot_is_one() -> None:
    asked: list[Call] = []

    def send(each: Call) -> Reply:
        asked.append(each)
        if len(asked) == 1:
            raise UpstreamUnavailable
        return Reply(200)

    retry = RetrySettings(attempts=2, backoff=0, backoff_most=0)
    shared = parts(service(send, A.url, B.url, retry=retry), slots=1)

    assert build(route(ToService("s", "/p")), shared)(call()).status == 200
    assert [each.instance for each in asked] == [A, B]


@pytest.mark.parametrize(("whole_list", "seconds"), [(False, 3.0), (True, 8.0)])
def test_a_single_read_has_an_attempts_time_and_a_whole_list_the_requests(
    whole_list: bool, seconds: float
) -> None:
    seen: list[Call] = []
    shared = parts(service(noting(seen), attempt_timeout=3.0, request_timeout=8.0))
    begun = monotonic()

    build(route(ToService("s", "/p", whole_list=whole_list)), shared)(call(seconds=60))

    assert seen[0].deadline - begun == pytest.approx(seconds, abs=1)
