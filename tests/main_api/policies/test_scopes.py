"""Scopes: a query that takes one is refused before anything is asked upstream."""

import pytest

from chassis.errors import Forbidden
from main_api.exchange import Call, Reply
from main_api.policies.scopes import RequireScopes
from tests.main_api.support import call

DECRYPTION = RequireScopes({("decrypt", "true"): "parameters:decrypt"})


def passes(asked: Call) -> bool:
    sent: list[Call] = []

    def proceed(each: Call) -> Reply:
        sent.append(each)
        return Reply(200)

    DECRYPTION(asked, proceed)
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
