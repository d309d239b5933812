"""The links of every route, written out, outermost first."""

from pathlib import Path

import pytest

from chassis.settings import load
from main_api.app import create_app
from main_api.blueprints.operations import reserved
from main_api.settings import Settings
from tests.contracts.accounts import write

FUNCTION = ("function",)
SERVICE = ("admission", "cache", "retry", "balance", "breaker", "send")
LINKS = {
    "/api/s3/buckets": ("rate_limit", "query", *SERVICE),
    "/api/parameters/list": ("rate_limit", "query", "scopes", *SERVICE),
    "/api/parameters": ("rate_limit", "query", "scopes", *SERVICE),
    "/api/health/ready": FUNCTION,
    "/health": FUNCTION,
    "/health/<service>": FUNCTION,
    "/services": FUNCTION,
    "/services/<name>": FUNCTION,
    "/circuit-breakers": FUNCTION,
    "/routes": FUNCTION,
    "/gateway/stats": FUNCTION,
    "/": FUNCTION,
    "/docs": FUNCTION,
    "/openapi.json": FUNCTION,
    "/console/page.css": FUNCTION,
    "/console/page.js": FUNCTION,
    "/console/docs.js": FUNCTION,
    "/docs/index.css": FUNCTION,
    "/docs/swagger-ui.css": FUNCTION,
    "/docs/swagger-ui-bundle.js": FUNCTION,
    "/docs/favicon-32x32.png": FUNCTION,
}
PLAIN_VIEWS = {"/api/health", "/api/health/serving", "/metrics"}
# Where two links stand in one chain, they stand in this order, on every route.
ORDER = (
    "authenticate",
    "rate_limit",
    "query",
    "paths",
    "scopes",
    "admission",
    "cache",
    "bulkhead",
    "retry",
    "balance",
    "breaker",
    "send",
)

APP = create_app(Settings())
BUILT = {route.rule: pipeline.links for route, pipeline in APP.extensions["routes"]}


def test_every_route_has_these_links_and_no_other_route_exists() -> None:
    assert BUILT == LINKS


def test_only_probes_and_metrics_are_plain_views() -> None:
    assert {rule.rule for rule in APP.url_map.iter_rules()} - set(BUILT) == PLAIN_VIEWS


@pytest.mark.parametrize("rule", [rule for rule, links in LINKS.items() if links != FUNCTION])
def test_the_order_is_the_same_on_every_route(rule: str) -> None:
    links = BUILT[rule]

    assert list(links) == sorted(links, key=ORDER.index)
    assert links[-1] == "send"


def test_a_share_of_its_own_is_one_more_link_of_every_service_route_in_its_place() -> None:
    built = {
        route.rule: pipeline.links
        for route, pipeline in create_app(Settings(bulkhead=4)).extensions["routes"]
    }

    for rule, links in LINKS.items():
        added = () if links == FUNCTION else ("bulkhead",)
        assert set(built[rule]) == {*links, *added}
        assert links == FUNCTION or list(built[rule]) == sorted(built[rule], key=ORDER.index)


def test_without_room_for_answers_no_route_has_a_cache() -> None:
    built = {
        route.rule: pipeline.links
        for route, pipeline in create_app(Settings(cache_bytes=0)).extensions["routes"]
    }

    assert built == {rule: tuple(link for link in links if link != "cache") for rule, links in LINKS.items()}


def test_with_authentication_it_comes_first_wherever_not_everybody_may(tmp_path: Path) -> None:
    people = write(tmp_path / "accounts.yaml")
    app = create_app(load(Settings, people.environment()))
    built = {route.rule: pipeline.links for route, pipeline in app.extensions["routes"]}
    data = {rule: links for rule, links in LINKS.items() if links != FUNCTION}

    for rule, links in data.items():
        added = ("paths",) if "scopes" in links else ()
        assert set(built[rule]) == {"authenticate", *added, *links}
        assert list(built[rule]) == sorted(built[rule], key=ORDER.index)
    guarded = {rule for rule in built if reserved(rule)} | {"/auth/logout", "/auth/me"}
    for rule in set(built) - set(data):
        assert built[rule] == (("authenticate", "function") if rule in guarded else FUNCTION)
    assert set(built) - set(LINKS) == {"/auth/login", "/auth/logout", "/auth/me"}


def test_the_paths_of_operators_are_theirs_alone() -> None:
    operators = {each.rule for each, _ in APP.extensions["routes"] if each.documentation.tag == "operations"}

    assert {rule for rule in BUILT if reserved(rule)} == operators
    assert {rule for rule in PLAIN_VIEWS if reserved(rule)} == {"/metrics"}
    assert len(operators) == 7


def test_every_route_is_asked_by_get_alone() -> None:
    assert {route.methods for route, _ in APP.extensions["routes"]} == {("GET",)}
