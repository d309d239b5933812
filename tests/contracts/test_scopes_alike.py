"""Both services read scopes alike, and what the gateway lets pass is what the auxiliary would give."""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from marshmallow import ValidationError

import auxiliary_service.scopes as theirs
import main_api.scopes as ours
from auxiliary_service.schemas.parameters import parameter_query, parameters_query
from chassis.errors import Forbidden
from main_api.exchange import Call, Reply
from main_api.policies.scopes import WithinPaths
from tests.main_api.support import call

PROJECT = "myproject"
odd = st.sampled_from(["", ".", "..", "...", "*", "**", "a b", "é", "²", "a\n", "%2F", "x" * 256, "x" * 257])
segments = st.sampled_from(["a", "b", "ab", "a-", ".a", "A", PROJECT])
paths = st.lists(segments, min_size=1, max_size=3).map("/".join)
narrowed = paths.map("parameters:read:/{}/**".format)
known = st.sampled_from(ours.SCOPES)
pieces = st.sampled_from(
    [
        "parameters:read",
        "parameters:",
        "read",
        ":",
        "/",
        "/**",
        "*",
        "a",
        "..",
        ".",
        ",",
        "\n",
        "\t",
        "é",
        "b/c",
    ]
)
words = st.one_of(
    known,
    narrowed,
    st.lists(pieces, max_size=8).map("".join),
    st.lists(segments | odd, max_size=15).map(lambda found: f"parameters:read:/{'/'.join(found)}/**"),
    st.integers(1000, 1020).map(lambda most: f"parameters:read:/{('x' * 199 + '/') * 6:.{most}}/**"),
)


def header(scopes: frozenset[str]) -> str:
    """Write scopes as the gateway sends them."""
    return " ".join(sorted(scopes))


@given(st.frozensets(words, max_size=6))
@example(frozenset([f"parameters:read:/{'/'.join(['a'] * 13)}/**"]))
@example(frozenset([f"parameters:read:/{'/'.join(['a'] * 14)}/**"]))
@example(frozenset(["Parameters:Read:/a/**", "parameters:read:/\u017f/**", "parameters:read:/\u212a/**"]))
@example(frozenset([f"parameters:read:/{'/'.join(['x' * 200] * 5)}xxxxx/**"]))
def test_the_same_words_are_the_same_paths(scopes: frozenset[str]) -> None:
    assert ours.paths(scopes) == theirs.paths(scopes)


@given(words)
def test_a_word_is_valid_if_it_allows_something(word: str) -> None:
    assert ours.valid(word) == (word in ours.SCOPES or theirs.paths([word]) not in ((), None))


@given(st.frozensets(known | narrowed, max_size=8))
def test_what_the_gateway_sends_is_what_the_auxiliary_reads(scopes: frozenset[str]) -> None:
    assert theirs.listed(header(scopes)) == scopes


@given(paths, st.frozensets(narrowed, max_size=4))
def test_a_name_is_below_the_same_paths(name: str, scopes: frozenset[str]) -> None:
    found = ours.paths(scopes)
    assert found is not None
    assert any(ours.below(name, path) for path in found) == theirs.may_read(name, theirs.paths(scopes))


def test_the_words_are_the_same() -> None:
    assert {theirs.BUCKETS_READ, theirs.PARAMETERS_READ, theirs.PARAMETERS_DECRYPT} < set(ours.SCOPES)


# Names as a client may write them, most of them no names at all.
written = st.one_of(
    paths,
    st.builds("/{}/{}".format, st.sampled_from([PROJECT, "other", "..", ""]), paths),
    st.lists(st.sampled_from(["a", "b", "/", "//", ".", "..", PROJECT, "%2F", "\n", "\x00", "é", "*"])).map(
        "".join
    ),
    st.lists(segments | odd, max_size=18).map("/".join),
)
NAME, PREFIX = parameter_query(PROJECT), parameters_query(PROJECT)


def passes(asked: Call) -> bool:
    try:
        WithinPaths()(asked, lambda _: Reply(200))
    except Forbidden:
        return False
    return True


def is_given(field: str, value: str, scopes: frozenset[str]) -> bool | None:
    """Say whether the auxiliary would give something of it; None where it refuses the value itself."""
    readable = theirs.paths(scopes)
    try:
        if field == "name":
            return theirs.may_read(NAME.load({field: value}).name, readable)
        return bool(theirs.narrowed(PREFIX.load({field: value}).prefix, readable))
    except ValidationError:
        return None


@pytest.mark.parametrize("field", ["name", "prefix"])
@given(value=written, scopes=st.frozensets(narrowed | words, max_size=4))
@example(value=f"/{PROJECT}/a/b", scopes=frozenset(["parameters:read:/a/**"]))
@example(value=f"{PROJECT}/a/b", scopes=frozenset(["parameters:read:/a/**"]))
@example(value="/other/a/b", scopes=frozenset(["parameters:read:/a/**"]))
@example(value="a\n", scopes=frozenset(["parameters:read:/a/**"]))
@example(value=f"/{PROJECT}", scopes=frozenset(["parameters:read:/a/**"]))
def test_the_gateway_lets_pass_what_the_auxiliary_would_give_and_nothing_else(
    field: str, value: str, scopes: frozenset[str]
) -> None:
    passed, given_by_them = (
        passes(call(query=[(field, value)], scopes=scopes)),
        is_given(field, value, scopes),
    )
    # What the auxiliary refuses as no name of its project's may pass or not.
    assert given_by_them is None or passed == given_by_them


@pytest.mark.parametrize(
    "refused", ["a/../b", "a//b", "./a", "a/", "//a", "a/b\n", "a/%2e%2e/b", "é/a", "", "/"]
)
@pytest.mark.parametrize("make", [str, "/myproject/{}".format])
def test_what_is_no_name_at_all_passes_nowhere(refused: str, make: Callable[[str], str]) -> None:
    scopes = ["parameters:read:/a/**", "parameters:read:/b/**"]
    assert not passes(call(query=[("name", make(refused))], scopes=scopes))
    assert not passes(call(query=[("prefix", make(refused))], scopes=scopes))
