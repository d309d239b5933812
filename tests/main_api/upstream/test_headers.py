"""What the auxiliary is told of the caller."""

import pytest

from main_api.upstream.headers import for_auxiliary
from tests.main_api.support import call

TOKEN = "0123456789abcdef"


def told(*scopes: str) -> str:
    return dict(for_auxiliary(call(scopes=scopes), 1.0, TOKEN))["X-Internal-Scopes"]


def test_scopes_go_as_a_sorted_list_of_words() -> None:
    assert told("parameters:read", "buckets:read") == "buckets:read parameters:read"
    assert told("parameters:read:/a/**") == "parameters:read:/a/**"
    assert told() == ""


@pytest.mark.parametrize(
    "scope", ["x parameters:decrypt", "x,parameters:decrypt", "parameters:decrypt\r\nX: y", "", "b", "a:/**"]
)
def test_what_is_no_scope_is_not_told(scope: str) -> None:
    assert told(scope, "buckets:read") == "buckets:read"
