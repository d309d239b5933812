"""Pipelines: built once, in the declared order, or not at all."""

import pytest

from chassis.errors import Forbidden
from main_api.exchange import Call, Instance, Reply
from main_api.policies.balance import Balance
from main_api.routing.pipeline import Parts, Service, build
from main_api.routing.route import Documentation, Route, ToFunction, ToService
from tests.main_api.support import call

ONE = (Instance("s", "http://a:1"),)
SCOPES = {("decrypt", "true"): "parameters:decrypt"}


def route(end: ToService | ToFunction) -> Route:
    return Route(name="some-route", rule="/x", end=end, documentation=Documentation("", "text/plain"))


def parts(seen: list[Call]) -> Parts:
    def send(asked: Call) -> Reply:
        seen.append(asked)
        return Reply(200)

    return Parts({"s": Service(ONE, Balance(ONE), send)})


def test_an_unknown_service_is_an_error_that_names_route_and_service() -> None:
    with pytest.raises(ValueError, match=r"some-route.*'elsewhere'"):
        build(route(ToService("elsewhere", "/p")), parts([]))


def test_a_function_is_a_pipeline_of_one_link() -> None:
    pipeline = build(route(ToFunction(lambda asked: Reply(204, (("x-path", asked.path),)))), parts([]))

    assert pipeline.links == ("function",)
    assert pipeline(call("/p")).header("x-path") == "/p"


def test_a_service_is_reached_through_its_links_in_their_order() -> None:
    seen: list[Call] = []
    pipeline = build(route(ToService("s", "/p", SCOPES)), parts(seen))

    pipeline(call("/p", instance=None))

    assert pipeline.links == ("scopes", "balance", "send")
    assert seen[0].instance == ONE[0]


def test_a_link_that_answers_itself_leaves_the_rest_unasked() -> None:
    seen: list[Call] = []
    pipeline = build(route(ToService("s", "/p", SCOPES)), parts(seen))

    with pytest.raises(Forbidden):
        pipeline(call(query=[("decrypt", "true")]))
    assert seen == []


def test_what_is_refused_takes_no_instances_turn() -> None:
    seen: list[Call] = []
    two = (*ONE, Instance("s", "http://b:1"))
    shared = Parts({"s": Service(two, Balance(two), lambda asked: seen.append(asked) or Reply(200))})  # type: ignore[func-returns-value]
    pipeline = build(route(ToService("s", "/p", SCOPES)), shared)

    with pytest.raises(Forbidden):
        pipeline(call(query=[("decrypt", "true")]))
    pipeline(call())

    assert [each.instance for each in seen] == [two[0]]


def test_what_is_not_asked_for_is_no_link() -> None:
    assert build(route(ToService("s", "/p")), parts([])).links == ("balance", "send")


def test_routes_to_one_service_share_its_turns() -> None:
    seen: list[Call] = []
    two = (*ONE, Instance("s", "http://b:1"))
    shared = Parts({"s": Service(two, Balance(two), lambda asked: seen.append(asked) or Reply(200))})  # type: ignore[func-returns-value]
    first, second = (build(route(ToService("s", "/p")), shared) for _ in range(2))

    for pipeline in (first, second, first):
        pipeline(call())

    assert [each.instance for each in seen] == [two[0], two[1], two[0]]
