"""Scopes: a query that takes one, or asks for other paths, is refused before anything is asked upstream."""

import pytest

from chassis.errors import Forbidden, ServiceError
from main_api.exchange import Call, Policy, Reply
from main_api.policies.scopes import RequireScopes, WithinPaths
from tests.main_api.support import call

DECRYPTION = RequireScopes({("decrypt", "true"): "parameters:decrypt"})


def passes(asked: Call, policy: Policy = DECRYPTION) -> bool:
    sent: list[Call] = []

    def proceed(each: Call) -> Reply:
        sent.append(each)
        return Reply(200)

    policy(asked, proceed)
    return sent == [asked]


@pytest.mark.parametrize("query", [[], [("decrypt", "false")], [("name", "true")], [("name", "decrypt")]])
def test_what_takes_no_scope_passes(query: list[tuple[str, str]]) -> None:
    assert passes(call(query=query))


@pytest.mark.parametrize("scopes", [[], ["parameters:read"], ["PARAMETERS:DECRYPT"], ["parameters:decrypt "]])
def test_without_the_scope_it_is_forbidden_and_the_scope_named(scopes: list[str]) -> None:
    with pytest.raises(Forbidden, match="decrypt=true takes the scope parameters:decrypt"):
        passes(call(query=[("name", "a"), ("decrypt", "true")], scopes=scopes))


def test_with_the_scope_it_passes() -> None:
    assert passes(call(query=[("decrypt", "true")], scopes=["x", "parameters:decrypt"]))


def test_each_of_several_parameters_is_looked_at() -> None:
    with pytest.raises(Forbidden):
        passes(call(query=[("decrypt", "false"), ("decrypt", "true")]))


def telling(told: list[Call], error: ServiceError | None = None) -> RequireScopes:
    def granted(each: Call) -> None:
        told.append(each)
        if error is not None:
            raise error

    return RequireScopes({("decrypt", "true"): "parameters:decrypt", ("x", "y"): "buckets:read"}, granted)


def test_what_is_granted_is_told_once_and_nothing_else() -> None:
    told: list[Call] = []
    scopes = ["parameters:decrypt", "buckets:read"]
    asked = call(query=[("decrypt", "true"), ("x", "y")], scopes=scopes)
    assert passes(asked, telling(told))
    assert told == [asked]
    assert passes(call(query=[("decrypt", "false")], scopes=scopes), telling(told))
    for scope in scopes:
        with pytest.raises(Forbidden):
            passes(call(query=[("decrypt", "true"), ("x", "y")], scopes=[scope]), telling(told))
    assert told == [asked]


def test_who_is_told_may_refuse() -> None:
    asked = call(query=[("decrypt", "true")], scopes=["parameters:decrypt"])
    with pytest.raises(Forbidden, match="not now"):
        passes(asked, telling([], Forbidden("not now")))


def narrowed(*paths: str) -> list[str]:
    return [f"parameters:read:/{path}/**" for path in paths]


def is_allowed(field: str, value: str, *paths: str) -> bool:
    asked = call(
        query=[("decrypt", "false"), (field, value)], scopes=[*narrowed(*paths), "parameters:decrypt"]
    )
    try:
        return passes(asked, WithinPaths())
    except Forbidden:
        return False


@pytest.mark.parametrize("name", ["a/b", "a/b/c", "b/c/d", "/myproject/a/b", "/other/a/b", "a/a", "b/c/..."])
def test_a_name_below_a_path_passes(name: str) -> None:
    assert is_allowed("name", name, "a", "b/c")


@pytest.mark.parametrize(
    "name",
    [
        *("a", "ab/c", "b", "b/c", "b/d", "b/cc/d", "A/b", "c/a/b", "myproject/a/b", "/a/b", "/myproject/a"),
        *("/myproject", "/myproject/b/d", "/myproject/myproject/a/b", "//a/b", "/myproject//a/b", "///a/b"),
        *(
            "",
            "/",
            "a/",
            "a//b",
            "a/../c",
            "a/./b",
            "a/..",
            "../a/b",
            "./a/b",
            "/../a/b",
            "a/b\n",
            "a/b/",
            "a/b c",
        ),
        *("a\\b", "a%2Fb", "a/%2e%2e/c", "a/é", "a/\x00", "a/²", "a/*", "a/**", " a/b"),
    ],
)
def test_any_other_name_is_forbidden(name: str) -> None:
    assert not is_allowed("name", name, "a", "b/c")


@pytest.mark.parametrize("prefix", ["a", "a/x", "b", "b/c", "b/c/d", "/myproject/b", "/other/a/x"])
def test_a_prefix_that_meets_a_path_passes(prefix: str) -> None:
    assert is_allowed("prefix", prefix, "a", "b/c")


@pytest.mark.parametrize(
    "prefix", ["ab", "c", "b/d", "b/cc", "/myproject", "/b", "", "/", "a/..", "b/", "a//x"]
)
def test_any_other_prefix_is_forbidden(prefix: str) -> None:
    assert not is_allowed("prefix", prefix, "a", "b/c")


@pytest.mark.parametrize("field", ["name", "prefix"])
def test_each_of_several_is_judged_and_the_scope_named(field: str) -> None:
    with pytest.raises(Forbidden, match=f"This {field} takes the scope parameters:read"):
        passes(call(query=[(field, "a/b"), (field, "c/d")], scopes=narrowed("a")), WithinPaths())


@pytest.mark.parametrize("query", [[], [("limit", "5")], [("nextToken", "c/d"), ("decrypt", "true")]])
def test_a_list_without_a_prefix_passes(query: list[tuple[str, str]]) -> None:
    assert passes(call(query=query, scopes=narrowed("a")), WithinPaths())


@pytest.mark.parametrize("query", [[], [("name", "c/d")], [("prefix", "c")], [("name", "a/../b")]])
def test_who_may_read_all_is_not_judged(query: list[tuple[str, str]]) -> None:
    assert passes(call(query=query, scopes=["parameters:read", *narrowed("a")]), WithinPaths())


@pytest.mark.parametrize(
    "scopes",
    [
        [],
        ["buckets:read", "parameters:decrypt"],
        ["parameters:read:/**"],
        ["parameters:read:/a/../**"],
        ["x"],
    ],
)
@pytest.mark.parametrize("query", [[], [("name", "a/b")], [("prefix", "a")]])
def test_who_may_read_no_parameter_is_refused_whatever_he_asks(
    query: list[tuple[str, str]], scopes: list[str]
) -> None:
    with pytest.raises(Forbidden, match="the scope parameters:read"):
        passes(call(query=query, scopes=scopes), WithinPaths())
