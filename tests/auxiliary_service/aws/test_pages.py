"""Pages: whole ones, all of them, without an end that never comes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auxiliary_service.aws.pages import LATE, Page, read_pages
from auxiliary_service.errors import AwsError, AwsTimeout


class Patient:
    """Patience that ends after a number of pages, or never."""

    def __init__(self, pages: int | None = None) -> None:
        self.left = pages
        self.offered: list[Any] = []

    def lasts(self) -> bool:
        if self.left is None:
            return True
        self.left -= 1
        return self.left >= 0

    def offer(self, so_far: object) -> None:
        self.offered.append(so_far)


class Listed:
    """An AWS that gives ``items`` in pages of the given sizes, and counts what was fetched."""

    def __init__(self, sizes: list[int]) -> None:
        self.pages: list[tuple[int, ...]] = []
        begin = 0
        for size in sizes:
            self.pages.append(tuple(range(begin, begin + size)))
            begin += size
        self.fetched = 0

    def __call__(self, token: str | None) -> Page[int]:
        number = int(token or 0)
        self.fetched += 1
        following = str(number + 1) if number + 1 < len(self.pages) else None
        return Page(self.pages[number], following)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=30))
def test_without_a_limit_everything_comes_once(sizes: list[int]) -> None:
    listed = Listed(sizes)
    page = read_pages(listed, Patient(), start=None, size=10, limit=None)
    assert page == (tuple(range(sum(sizes))), None)
    assert listed.fetched == len(sizes)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=30), st.integers(10, 40))
def test_with_a_limit_the_answers_joined_are_the_list(sizes: list[int], limit: int) -> None:
    listed = Listed(sizes)
    token, items = None, []
    while True:
        page = read_pages(listed, Patient(), start=token, size=10, limit=limit)
        assert len(page.items) <= limit
        items += page.items
        token = page.next_token
        if token is None:
            break
    assert items == list(range(sum(sizes)))
    assert listed.fetched == len(sizes)


def test_pages_are_read_while_a_whole_one_fits() -> None:
    listed = Listed([10, 10, 10])
    assert len(read_pages(listed, Patient(), start=None, size=10, limit=29).items) == 20
    assert listed.fetched == 2


def test_an_empty_page_with_a_token_is_not_the_end() -> None:
    page = read_pages(Listed([0, 0, 3]), Patient(), start=None, size=10, limit=None)
    assert page == ((0, 1, 2), None)


def test_a_token_that_repeats_is_an_error() -> None:
    turns = iter(["a", "b", "a", "b"])
    with pytest.raises(AwsError):
        read_pages(lambda token: Page((1,), next(turns)), Patient(), start=None, size=10, limit=None)
    with pytest.raises(AwsError):
        read_pages(lambda token: Page((1,), token), Patient(), start="a", size=10, limit=10)


def test_without_a_limit_the_end_of_patience_is_a_timeout_that_names_the_way_out() -> None:
    listed = Listed([10] * 5)
    with pytest.raises(AwsTimeout) as caught:
        read_pages(listed, Patient(3), start=None, size=10, limit=None)
    assert caught.value.message == LATE
    assert "limit" in LATE
    assert "nextToken" in LATE
    assert listed.fetched == 3


def test_with_a_limit_the_end_of_patience_gives_what_is_there() -> None:
    patience = Patient(3)
    page = read_pages(Listed([10] * 9), patience, start=None, size=10, limit=90)
    assert page == (tuple(range(30)), "3")
    assert [len(each.items) for each in patience.offered] == [10, 20, 30]


def test_with_a_limit_and_nothing_read_it_is_a_timeout() -> None:
    with pytest.raises(AwsTimeout):
        read_pages(Listed([10]), Patient(0), start=None, size=10, limit=90)
