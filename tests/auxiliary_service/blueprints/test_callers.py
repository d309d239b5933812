"""The internal token and the scopes that come with it."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

Start = Callable[..., FlaskClient]
PATHS = ["/aws/s3/buckets", "/aws/parameters/list", "/aws/parameters?name=a", "/aws/nowhere"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "shown",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer internal-token-012345678",
        "Bearer internal-token-01234567890",
        "Basic internal-token-0123456789",
        "internal-token-0123456789",
        "Bearer internal-token-0123456789, Bearer internal-token-0123456789",
        "Bearer internal-tökén-0123456789",
    ],
)
def test_without_the_token_it_is_401(
    start: Start, given: Any, aws: Any, path: str, shown: str | None
) -> None:
    client = start(INTERNAL_TOKEN=given.token)
    answer = client.get(
        path, headers={} if shown is None else {"Authorization": shown.encode("latin-1").decode("latin-1")}
    )
    assert (answer.status_code, answer.json["code"]) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "X-Internal-Scopes" not in answer.headers.get("Vary", "")
    assert aws.calls == []


def test_methods_and_endpoints_are_not_told_to_strangers(start: Start, given: Any) -> None:
    client = start(INTERNAL_TOKEN=given.token)
    assert client.post("/aws/s3/buckets").status_code == 401
    assert client.get("/aws/s3/buckets?x=1", data=b"x").status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_with_the_token_it_is_answered(start: Start, given: Any, scheme: str) -> None:
    client = start(INTERNAL_TOKEN=given.token)
    answer = client.get("/aws/s3/buckets", headers={"Authorization": f"{scheme} {given.token}"})
    assert answer.status_code == 200
    assert "X-Internal-Scopes" in answer.headers["Vary"]


def test_probes_and_metrics_need_no_token(start: Start, given: Any) -> None:
    client = start(INTERNAL_TOKEN=given.token)
    assert client.get("/health").status_code == 200
    assert client.get("/version").status_code == 200
    assert "Vary" not in client.get("/version").headers


def test_errors_behind_the_token_vary_too(start: Start, given: Any) -> None:
    answer = start(INTERNAL_TOKEN=given.token).get("/aws/parameters", headers=given.headers())
    assert answer.status_code == 400
    assert "X-Internal-Scopes" in answer.headers["Vary"]


def test_without_a_token_of_ours_nobody_needs_one_and_no_scopes_are_believed(start: Start) -> None:
    client = start()
    plain = client.get("/aws/s3/buckets")
    claimed = client.get("/aws/s3/buckets", headers={"X-Internal-Scopes": "parameters:decrypt"})
    assert plain.status_code == claimed.status_code == 200
    assert plain.headers["ETag"] == claimed.headers["ETag"]
    assert "Vary" not in plain.headers
    decrypt = client.get(
        "/aws/parameters?name=a&decrypt=true", headers={"X-Internal-Scopes": "parameters:decrypt"}
    )
    assert (decrypt.status_code, decrypt.json["code"]) == (403, "forbidden")
