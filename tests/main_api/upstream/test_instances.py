"""The instances of a service."""

import re

import pytest

from main_api.exchange import Instance
from main_api.upstream.instances import static


def test_each_address_is_one_instance_in_the_order_given() -> None:
    urls = ["http://b:1", "http://a:1", "http://b:1"]

    assert static("s", urls) == (Instance("s", "http://b:1"), Instance("s", "http://a:1"))


def test_no_address_is_no_instance() -> None:
    assert static("s", []) == ()


def test_weights_are_read_and_one_where_there_is_none() -> None:
    found = static("s", ["http://a:1;weight=3", "http://b:1", "http://c:1;weight=1000"])

    assert [(each.url, each.weight) for each in found] == [
        ("http://a:1", 3),
        ("http://b:1", 1),
        ("http://c:1", 1000),
    ]


def test_of_an_address_that_is_listed_twice_the_first_weight_counts() -> None:
    [found] = static("s", ["http://a:1;weight=3", "http://a:1", "http://a:1;weight=9"])

    assert found.weight == 3


@pytest.mark.parametrize(
    "address",
    [
        "",
        ";weight=3",
        "http://a:1;",
        "http://a:1;3",
        "http://a:1;weight=",
        "http://a:1;weight=x",
        "http://a:1;w=3;x",
    ],
)
def test_what_is_not_of_this_form_is_an_error_that_names_it(address: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(address))):
        static("s", [address])
