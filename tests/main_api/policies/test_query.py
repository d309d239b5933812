"""A query passes as its schema has loaded it, or every fault of it is told."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from marshmallow import RAISE, Schema, ValidationError, fields, validate

from chassis.errors import ValidationFailed
from main_api.exchange import Call, Reply
from main_api.policies.query import CheckQuery
from main_api.schemas.query import BucketsQuery, ParameterQuery, ParametersQuery
from tests.main_api.support import call

Query = Sequence[tuple[str, str]]


class Two(Schema):
    """A query of two parameters, one of which must be there."""

    class Meta:
        """Marshmallow's options."""

        unknown = RAISE

    error_messages = {"unknown": "Unknown parameter"}  # noqa: RUF012 - marshmallow's own way
    a = fields.String(required=True, validate=validate.Length(1, 3), error_messages={"required": "Missing"})
    b = fields.String(
        validate=[validate.Regexp("^[0-9]*$", error="Digits"), validate.Length(max=2, error="Two")]
    )


def passed(query: Query, schema: type[Schema] = Two) -> Query:
    """Give the query that passes; raise what refuses it."""
    sent: list[Call] = []
    reply = Reply(200)

    def proceed(each: Call) -> Reply:
        sent.append(each)
        return reply

    asked = call("/aws/parameters", query=query, headers=(("traceparent", "t"),), scopes=["x"])
    try:
        assert CheckQuery(schema)(asked, proceed) is reply
    except ValidationFailed:
        assert sent == []
        raise
    [each] = sent
    assert (each.path, each.headers, each.caller, each.deadline) == (
        asked.path,
        asked.headers,
        asked.caller,
        asked.deadline,
    )
    assert each.trail is asked.trail
    return each.query


def told(query: Query, schema: type[Schema] = Two) -> list[tuple[str, str, object]]:
    """Give what is told of a query that is refused."""
    with pytest.raises(ValidationFailed) as raised:
        passed(query, schema)
    error = raised.value
    assert (error.status, error.code, error.message) == (400, "validation_failed", "Validation failed")
    return [(each["field"], each["message"], each["value"]) for each in error.details]


@pytest.mark.parametrize("query", [[("a", "x")], [("a", "x"), ("b", "12")], [("b", ""), ("a", "é/&")]])
def test_what_is_right_passes(query: Query) -> None:
    assert sorted(passed(query)) == sorted(query)


def test_it_is_what_was_loaded_that_passes_and_not_what_was_sent() -> None:
    class Filled(Schema):
        """A parameter that is there also when nobody sends it."""

        limit = fields.String(load_default="10")

    assert passed([], Filled) == (("limit", "10"),)
    assert passed([("limit", "5")], Filled) == (("limit", "5"),)


@pytest.mark.parametrize(
    ("query", "faults"),
    [
        ([], [("a", "Missing", None)]),
        ([("a", "")], [("a", "Length must be between 1 and 3.", "")]),
        ([("a", "x"), ("c", "1")], [("c", "Unknown parameter", "1")]),
        ([("a", "x"), ("a", "y")], [("a", "Repeated", "x,y")]),
        ([("a", "x"), ("a", "x")], [("a", "Repeated", "x,x")]),
        ([("a", "x"), ("b", "xyz")], [("b", "Digits Two", "xyz")]),
        ([("a", "x"), ("A", "x")], [("A", "Unknown parameter", "x")]),
        ([("a", "x"), ("", "x")], [("", "Unknown parameter", "x")]),
        ([("a", "x"), ("_schema", "x")], [("_schema", "Unknown parameter", "x")]),
        (
            [("a", "x"), ("a[]", "x"), ("a.b", "x")],
            [("a.b", "Unknown parameter", "x"), ("a[]", "Unknown parameter", "x")],
        ),
        # All at once, by name; what is repeated is told so, whatever else is wrong with it.
        (
            [("z", "1"), ("b", "x"), ("a", ""), ("z", "2"), ("a", ""), ("c", "3")],
            [
                ("a", "Repeated", ","),
                ("b", "Digits", "x"),
                ("c", "Unknown parameter", "3"),
                ("z", "Repeated", "1,2"),
            ],
        ),
    ],
)
def test_each_fault_is_told_by_name(query: Query, faults: list[tuple[str, str, object]]) -> None:
    assert told(query) == faults


def test_of_what_was_sent_only_the_beginning_is_repeated() -> None:
    [fault, *more] = told([("a", "x"), ("n" * 500, "v" * 500)])
    assert fault == ("n" * 200, "Unknown parameter", "v" * 200)
    assert more == []
    [fault] = told([("a", "v" * 150)] * 3)
    assert fault == ("a", "Repeated", ("v" * 150 + "," + "v" * 49))


def test_hundreds_of_parameters_are_told_once_each() -> None:
    faults = told([("a", "x")] + [(f"p{number % 300:03}", str(number)) for number in range(900)])

    assert [each[0] for each in faults] == [f"p{number:03}" for number in range(300)]
    assert {each[1] for each in faults} == {"Repeated"}


NAMES = st.sampled_from(["a", "b", "c", "_schema", "", "A"]) | st.text(max_size=3)
VALUES = st.sampled_from(["x", "12", "123", "", "xyzw"]) | st.text(st.characters(codec=None), max_size=4)


def judge(query: Query, schema: type[Schema]) -> None:
    """Hold the policy to the schema: for single values what it loads, else the names that are wrong."""
    names = [name for name, _ in query]
    repeated = {name for name in names if names.count(name) > 1}
    try:
        loaded: Any = schema().load(dict(reversed(query)))
        wrong = set(repeated)
    except ValidationError as error:
        loaded, wrong = None, set(error.messages_dict) | repeated
    if not wrong:
        assert dict(passed(query, schema)) == loaded == dict(query)
        assert len(passed(query, schema)) == len(query)
        return
    faults = told(query, schema)
    assert [each[0] for each in faults] == sorted(wrong)
    for name, message, value in faults:
        assert message
        assert (message == "Repeated") == (name in repeated)
        sent = [each for known, each in query if known == name]
        assert value == (",".join(sent) if sent else None)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
@hypothesis_settings(max_examples=150, deadline=None)
def test_what_passes_is_what_the_schema_loads_and_nothing_else(query: Query) -> None:
    judge(query, Two)


OURS = st.sampled_from(["name", "prefix", "limit", "nextToken", "decrypt", "Name", "limit "])
GIVEN = st.sampled_from(["a", "a/b", "..", "1", "1000", "1001", "true", "TRUE", "abc=", "", "a\n", "\u0661"])


@pytest.mark.parametrize("schema", [BucketsQuery, ParametersQuery, ParameterQuery])
@given(query=st.lists(st.tuples(OURS, GIVEN), max_size=4))
@hypothesis_settings(max_examples=100, deadline=None)
def test_so_it_is_with_the_queries_that_there_are(schema: type[Schema], query: Query) -> None:
    judge(query, schema)


def test_one_call_leaves_nothing_for_the_next() -> None:
    policy = CheckQuery(Two)
    seen: list[Call] = []

    def proceed(each: Call) -> Reply:
        seen.append(each)
        return Reply(200)

    for query in ([("a", "x"), ("b", "1")], [("a", "y")]):
        policy(call(query=query), proceed)
        with pytest.raises(ValidationFailed):
            policy(call(query=[*query, ("c", "1")]), proceed)
    assert [dict(each.query) for each in seen] == [{"a": "x", "b": "1"}, {"a": "y"}]
