"""A stored answer as bytes: what was written is read again, and nothing else is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from main_api.state import entries
from main_api.state.entries import Entry, pack, unpack

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
ENTRIES = st.builds(
    Entry,
    status=st.integers(100, 599),
    headers=st.lists(st.tuples(TEXT, TEXT)).map(tuple),
    body=st.binary(),
    born=NUMBER,
    lifetime=NUMBER,
    stale_if_error=NUMBER,
    validate_always=st.booleans(),
    never_stale=st.booleans(),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
ENTRY = Entry(
    status=200,
    headers=(("ETag", 'W/"a"'), ("X-Twice", "1"), ("X-Twice", "2")),
    body=b'{"a":"\xc3\xa9"}',
    born=12.25,
    lifetime=60.0,
    stale_if_error=300.0,
)


def framed(facts: object, body: bytes = ENTRY.body) -> bytes:
    """Write facts in the frame of a good entry."""
    text = json.dumps(facts).encode()
    return len(text).to_bytes(4, "big") + text + body


def facts_of(entry: Entry) -> list[Any]:
    """Read the facts that :func:`pack` wrote."""
    data = pack(entry)
    found: list[Any] = json.loads(data[4 : 4 + int.from_bytes(data[:4], "big")])
    return found


@given(ENTRIES)
def test_what_was_written_is_read_again(entry: Entry) -> None:
    assert unpack(pack(entry)) == entry


@given(st.binary() | st.binary(min_size=4).map(lambda data: b"\x00\x00\x00\x02" + data))
def test_garbage_is_none(data: bytes) -> None:
    assert unpack(data) is None


@given(JSON)
def test_other_facts_than_an_entrys_are_none(facts: object) -> None:
    assert unpack(framed(facts)) is None


@given(position=st.integers(0, 7), value=JSON)
def test_no_fact_of_another_kind_is_an_exception(position: int, value: object) -> None:
    facts = facts_of(ENTRY)
    facts[position] = value

    found = unpack(framed(facts))

    assert found is None or isinstance(found, Entry)


@pytest.mark.parametrize("position", [3, 4, 5], ids=["born", "lifetime", "stale_if_error"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**400], ids=str)
def test_a_moment_that_is_no_number_is_none(position: int, value: float) -> None:
    """NaN compares with nothing, so that an entry with it would be fresh for ever."""
    facts = facts_of(ENTRY)
    facts[position] = value

    assert unpack(framed(facts)) is None


@pytest.mark.parametrize("status", [float("nan"), float("inf"), 10**400, "two hundred", None])
def test_a_status_that_is_no_number_is_none(status: object) -> None:
    facts = facts_of(ENTRY)
    facts[1] = status

    found = unpack(framed(facts))

    assert found is None or status == 10**400


@pytest.mark.parametrize("facts", ["[" * 100_000, "1" * 5000, '"\\ud800', ""])
def test_facts_that_no_parser_takes_are_none(facts: str) -> None:
    assert unpack(len(facts).to_bytes(4, "big") + facts.encode()) is None


def test_whatever_is_cut_off_is_none() -> None:
    """A body that is not whole would be given to clients as one that is."""
    whole = pack(ENTRY)

    assert [length for length in range(len(whole)) if unpack(whole[:length]) is not None] == []


@pytest.mark.parametrize("version", [0, 2, -1, None, "1", 99])
def test_another_version_is_none(version: object) -> None:
    facts = facts_of(ENTRY)
    facts[0] = version

    assert unpack(framed(facts)) is None


def test_the_version_is_that_of_the_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack(ENTRY)
    monkeypatch.setattr(entries, "VERSION", entries.VERSION + 1)

    assert unpack(data) is None
    assert unpack(pack(ENTRY)) == ENTRY


@pytest.mark.parametrize("name", ["ETag", "etag", "ETAG"])
def test_a_header_is_found_in_any_case_of_letters_the_first_one(name: str) -> None:
    assert ENTRY.header(name) == 'W/"a"'
    assert ENTRY.header("x-twice") == "1"
    assert ENTRY.header("Age") is None
