"""Names of parameters, judged as the contract says."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from auxiliary_service.errors import InvalidRequest
from auxiliary_service.schemas.parameters import ParametersQuery, parameter_query, parameters_query
from auxiliary_service.schemas.query import load

SCHEMA = parameter_query("myproject")
ALPHABET = string.ascii_letters + string.digits + "_.-"
segments = st.text(ALPHABET, min_size=1, max_size=20).filter(lambda text: text not in (".", ".."))
names = st.lists(segments, min_size=1, max_size=15).map("/".join)


def read(name: str) -> str:
    return load(SCHEMA, MultiDict([("name", name)])).name


def refused(name: str) -> bool:
    try:
        read(name)
    except InvalidRequest as error:
        return [detail["field"] for detail in error.details] == ["name"]
    return False


@given(names)
def test_a_relative_name_is_taken_as_it_is(name: str) -> None:
    assert read(name) == name


@given(st.lists(segments, min_size=1, max_size=14).map("/".join))
def test_a_whole_name_means_the_same(name: str) -> None:
    assert read(f"/myproject/{name}") == name


@given(names.filter(lambda name: not name.startswith("myproject/")))
def test_any_other_absolute_name_is_refused(name: str) -> None:
    assert refused(f"/{name}")


@given(st.text(max_size=60))
def test_whatever_is_accepted_is_by_the_rules(name: str) -> None:
    try:
        relative = read(name)
    except InvalidRequest:
        return
    assert re.fullmatch(r"[a-zA-Z0-9_.\-/]{1,1011}", relative)
    assert not {"", ".", ".."} & set(relative.split("/"))


@given(names, st.sampled_from("%\0 é~:*?\\\n"), st.data())
def test_one_foreign_character_is_enough(name: str, foreign: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name)))
    assert refused(name[:at] + foreign + name[at:])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "//a",
        "a//b",
        "a/",
        "./a",
        "../other/a",
        "a/../b",
        "a/.",
        "/myproject",
        "/myproject/",
        "/myproject/../other",
        "/myprojects/a",
        "a" * 1012,
        "/".join("a" * 16),
        "a:3",
        "a\n",
        "arn:aws:ssm:us-west-2:123456789012:parameter/x",
    ],
)
def test_refused_names(name: str) -> None:
    assert refused(name)


@pytest.mark.parametrize("name", ["a" * 1011, "/".join("a" * 15), "...", "myproject/a"])
def test_accepted_names(name: str) -> None:
    assert read(name) == name


def test_a_prefix_is_judged_like_a_name() -> None:
    schema = parameters_query("myproject")
    assert load(schema, MultiDict()) == ParametersQuery(None, None, None, decrypt=False)
    assert load(schema, MultiDict([("prefix", "/myproject/a/b")])).prefix == "a/b"
    with pytest.raises(InvalidRequest):
        load(schema, MultiDict([("prefix", "../other")]))


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("false", False)])
def test_decrypt_is_true_or_false(text: str, expected: bool) -> None:
    assert load(SCHEMA, MultiDict([("name", "a"), ("decrypt", text)])).decrypt is expected


@pytest.mark.parametrize("text", ["", "1", "yes", "True", "TRUE", "on"])
def test_decrypt_is_nothing_else(text: str) -> None:
    with pytest.raises(InvalidRequest):
        load(SCHEMA, MultiDict([("name", "a"), ("decrypt", text)]))
