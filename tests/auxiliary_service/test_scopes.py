"""Scopes: words that are known, paths that are whole, and nothing from what was not written so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auxiliary_service.scopes import listed, may_read, narrowed, paths
from tests.auxiliary_service.paged_ssm import is_below

segments = st.sampled_from(["a", "b", "a-", "a.b", "A", "ab"])
names = st.lists(segments, min_size=1, max_size=4).map("/".join)
readable = st.frozensets(names, max_size=4).map(
    lambda found: paths([f"parameters:read:/{path}/**" for path in found])
)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", []),
        (" ", []),
        ("buckets:read", ["buckets:read"]),
        (" a  b a ", ["a", "b"]),
        ("parameters:read:/a/** x", ["parameters:read:/a/**", "x"]),
    ],
)
def test_a_list_is_its_words(header: str, words: list[str]) -> None:
    assert listed(header) == frozenset(words)


@pytest.mark.parametrize("seam", [",", ", ", " ,", " , "])
@given(one=st.text("ab:/* ", max_size=20), other=st.text("ab:/* ", max_size=20))
def test_headers_that_were_joined_say_nothing(seam: str, one: str, other: str) -> None:
    assert listed(f"{one}{seam}{other}") == frozenset()


@pytest.mark.parametrize("white", ["\t", "\n", "\x0b", "\x1c", "\x85", "\xa0", "\u2003", "\x00", "\x7f", "é"])
def test_only_a_space_is_between_words(white: str) -> None:
    assert listed(f"a{white}parameters:decrypt") == frozenset()
    assert listed(f"parameters:read {white}") == frozenset()


@pytest.mark.parametrize("scopes", [["parameters:read"], ["parameters:read", "parameters:read:/a/**"]])
def test_the_whole_word_is_all_paths(scopes: list[str]) -> None:
    assert paths(scopes) is None


@pytest.mark.parametrize(
    "path", ["database", "a/b/c", "...", "a..b", ".a", "-", "x" * 256, "/".join(["a"] * 13)]
)
def test_a_word_is_narrowed_to_a_path(path: str) -> None:
    assert paths([f"parameters:read:/{path}/**"]) == (path,)


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "parameters:read:",
        "parameters:read:/**",
        "parameters:read://**",
        "parameters:read:/*",
        "parameters:read:/a",
        "parameters:read:/a/",
        "parameters:read:/a/*",
        "parameters:read:/a**",
        "parameters:read:a/**",
        "parameters:read:/a//b/**",
        "parameters:read://a/**",
        "parameters:read:/./**",
        "parameters:read:/../**",
        "parameters:read:/a/../b/**",
        "parameters:read:/a/**/**",
        "parameters:read:/*/**",
        "parameters:read:/a/**\n",
        "parameters:read:/a\n/**",
        "parameters:read:/a%2Fb/**",
        "parameters:read:/é/**",
        "parameters:read:/²/**",
        "Parameters:Read:/a/**",
        "PARAMETERS:READ",
        "parameters:read,",
        "xparameters:read",
        "parameters:readx",
        "parameters:decrypt:/a/**",
        "buckets:read",
        "buckets:read:/a/**",
        f"parameters:read:/{'x' * 257}/**",
        f"parameters:read:/{'/'.join(['a'] * 14)}/**",
        f"parameters:read:/{'/'.join(['x' * 200] * 6)}/**",
    ],
)
def test_any_other_word_is_no_path(scope: str) -> None:
    assert paths([scope]) == ()


def test_paths_are_sorted_and_none_is_below_another() -> None:
    words = [f"parameters:read:/{path}/**" for path in ("b/c", "a", "b/c/d/e", "a-/x", "a/x", "b/cc", "a")]
    assert paths(words) == ("a", "a-/x", "b/c", "b/cc")


@given(st.lists(names, max_size=6))
def test_the_paths_that_are_left_hold_all_that_the_words_did(found: list[str]) -> None:
    left = paths([f"parameters:read:/{path}/**" for path in found])
    assert left is not None
    assert list(left) == sorted(set(left))
    assert not any(is_below(one, other) for one in left for other in left)
    assert set(left) == {one for one in found if not any(is_below(one, other) for other in found)}


@given(names, readable)
def test_a_name_may_be_read_below_a_path_and_nowhere_else(name: str, left: tuple[str, ...]) -> None:
    assert may_read(name, left) == any(is_below(name, path) for path in left)
    assert may_read(name, None)


@given(st.sets(names, max_size=30), st.none() | names, st.none() | readable)
def test_the_narrowed_paths_hold_exactly_what_is_below_both(
    every: set[str], prefix: str | None, left: tuple[str, ...] | None
) -> None:
    found = narrowed(prefix, left)

    allowed = {name for name in every if left is None or any(is_below(name, path) for path in left)}
    asked = {name for name in every if prefix is None or is_below(name, prefix)}
    assert {name for name in every if any(is_below(name, path) for path in found)} == allowed & asked
    assert list(found) == sorted(set(found))
    assert not any(is_below(one, other) for one in found for other in found)


@pytest.mark.parametrize(
    ("prefix", "left", "found"),
    [
        (None, None, ("",)),
        ("a", None, ("a",)),
        (None, ("a", "b/c"), ("a", "b/c")),
        ("a", ("a", "b/c"), ("a",)),
        ("a/x", ("a", "b/c"), ("a/x",)),
        ("b", ("a", "b/c", "b/d", "bb"), ("b/c", "b/d")),
        ("c", ("a", "b/c"), ()),
        ("aa", ("a",), ()),
        ("a", ("aa",), ()),
        (None, (), ()),
        ("a", (), ()),
    ],
)
def test_prefix_and_paths_meet(
    prefix: str | None, left: tuple[str, ...] | None, found: tuple[str, ...]
) -> None:
    assert narrowed(prefix, left) == found
