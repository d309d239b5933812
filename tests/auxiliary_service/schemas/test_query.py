"""Queries: every fault at once, each by its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from auxiliary_service.errors import InvalidRequest
from auxiliary_service.schemas.buckets import BucketsQuery, BucketsQuerySchema
from auxiliary_service.schemas.query import LIMIT_MOST, load


def faults(*pairs: tuple[str, str]) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        load(BucketsQuerySchema(), MultiDict(pairs))
    return {detail["field"]: detail["message"] for detail in caught.value.details}


def test_nothing_is_required() -> None:
    assert load(BucketsQuerySchema(), MultiDict()) == BucketsQuery(None, None, None)


def test_everything_is_read() -> None:
    query = load(BucketsQuerySchema(), MultiDict([("prefix", "a"), ("limit", "7"), ("nextToken", "t")]))
    assert query == BucketsQuery("a", 7, "t")


def test_all_faults_are_named_together() -> None:
    found = faults(("prefix", "a b"), ("limit", "0"), ("limit", "1"), ("what", "1"), ("nextToken", ""))
    assert set(found) == {"prefix", "limit", "what", "nextToken"}
    assert found["limit"] == "given more than once"
    assert found["what"] == "unknown query parameter"


def test_a_parameter_repeated_alike_is_a_fault_too() -> None:
    assert faults(("prefix", "a"), ("prefix", "a")) == {"prefix": "given more than once"}


def test_of_a_long_value_the_beginning_is_shown() -> None:
    with pytest.raises(InvalidRequest) as caught:
        load(BucketsQuerySchema(), MultiDict([("prefix", "x" * 5000)]))
    assert caught.value.details[0]["value"] == "x" * 200


@given(st.integers(-10, 2 * LIMIT_MOST))
def test_limits(limit: int) -> None:
    if 1 <= limit <= LIMIT_MOST:
        assert load(BucketsQuerySchema(), MultiDict([("limit", str(limit))])).limit == limit
    else:
        assert set(faults(("limit", str(limit)))) == {"limit"}


@pytest.mark.parametrize("limit", ["", " 5", "+5", "1_0", "5.0", "1e1", "\u0665", "²", "9" * 5000])
def test_only_plain_digits_are_a_limit(limit: str) -> None:
    assert set(faults(("limit", limit))) == {"limit"}
