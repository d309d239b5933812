"""The instances of a service."""

from main_api.exchange import Instance
from main_api.upstream.instances import static


def test_each_address_is_one_instance_in_the_order_given() -> None:
    urls = ["http://b:1", "http://a:1", "http://b:1"]

    assert static("s", urls) == (Instance("s", "http://b:1"), Instance("s", "http://a:1"))


def test_no_address_is_no_instance() -> None:
    assert static("s", []) == ()
