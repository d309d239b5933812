"""What is shown of a chain: the settings that it was built with, by names with units, and no secret."""

import json
from typing import Any

import pytest

from main_api.app import create_app
from main_api.policies.admission import Admission, AdmissionSettings
from main_api.policies.cache import CacheSettings
from main_api.policies.circuit_breaker import BreakerSettings
from main_api.policies.retry import RetrySettings
from main_api.routing.pipeline import Parts, build
from main_api.routing.route import Documentation, Route, ToFunction, ToService
from main_api.state.memory import MemoryStore
from tests.main_api.policies.fakes import answer
from tests.main_api.support import service, settings

BREAKER = BreakerSettings(
    failure_rate=0.25,
    minimum_calls=7,
    window=3.0,
    failures_in_a_row=4,
    open_seconds=2.0,
    open_most=8.0,
    half_open_calls=5,
    healthy_seconds=30.0,
)
NUMBERS: dict[str, Any] = {
    "request_timeout": 8.0,
    "attempt_timeout": 1.5,
    "bulkhead": 6,
    "retry": RetrySettings(attempts=4, backoff=0.01, backoff_most=0.2),
    "retry_tokens": 20.0,
    "retry_tokens_returned": 0.5,
    "breaker": BREAKER,
}
SHOWN = {
    "scopes": {"needed": {"decrypt=true": "parameters:decrypt"}},
    "admission": {"slots": 9, "waiters": 3, "waitMs": 250},
    "cache": {"lifetimeSeconds": 12.5, "bypass": ["a=1", "b=2"]},
    "bulkhead": {"size": 6},
    "retry": {
        "attempts": 4,
        "attemptTimeoutMs": 1500,
        "backoffMs": 10,
        "backoffMostMs": 200,
        "tokens": 20,
        "tokensPerSuccess": 0.5,
    },
    "balance": {"algorithm": "round_robin"},
    "breaker": {
        "failureRate": 0.25,
        "minimumCalls": 7,
        "windowSeconds": 3,
        "failuresInARow": 4,
        "openSeconds": 2,
        "openMostSeconds": 8,
        "halfOpenCalls": 5,
        "healthySeconds": 30,
    },
    "send": {"service": "s", "path": "/p", "requestTimeoutMs": 8000},
}
CACHE = CacheSettings(lifetime=12.5, bypass=frozenset((("b", "2"), ("a", "1"))))
SCOPES = {("decrypt", "true"): "parameters:decrypt"}


def chain(end: ToService | ToFunction, **numbers: Any) -> dict[str, Any]:
    made = service(answer, **{**NUMBERS, **numbers})
    admission = Admission(AdmissionSettings(9, 3, 0.25))
    parts = Parts(admission, MemoryStore(2**20), {"s": made})
    route = Route(name="r", rule="/r", end=end, documentation=Documentation("", "text/plain"))
    return {link.name: link.settings for link in build(route, parts).chain}


def test_every_link_shows_what_it_was_built_with_in_the_order_of_a_request() -> None:
    found = chain(ToService("s", "/p", SCOPES, cache=CACHE))

    assert found == SHOWN
    assert list(found) == list(SHOWN)


def test_a_whole_list_has_the_whole_requests_time_and_shows_it() -> None:
    assert chain(ToService("s", "/p", whole_list=True))["retry"]["attemptTimeoutMs"] == 8000


def test_what_is_not_there_shows_nothing() -> None:
    found = chain(ToService("s", "/p", cache=None), bulkhead=None)

    assert list(found) == ["admission", "retry", "balance", "breaker", "send"]
    assert chain(ToFunction(answer)) == {"function": {}}


@pytest.mark.parametrize("algorithm", ["least_connections", "weighted", "random"])
def test_the_algorithm_is_the_one_that_is_set(algorithm: str) -> None:
    found = chain(ToService("s", "/p"), algorithm=algorithm, hash_by="caller")

    assert found["balance"] == {"algorithm": algorithm}


def test_a_consistent_hash_shows_what_it_goes_by() -> None:
    found = chain(ToService("s", "/p"), algorithm="consistent_hash", hash_by="header:X-Tenant")

    assert found["balance"] == {"algorithm": "consistent_hash", "hashBy": "header:X-Tenant"}


def test_what_is_shown_is_json_and_holds_no_secret() -> None:
    secrets = {"INTERNAL_TOKEN": "canary-0123456789", "REDIS_URL": "redis://:canary@127.0.0.1:1/0"}
    app = create_app(settings(CONSUL_HTTP_TOKEN="canary", BULKHEAD="3", **secrets))

    text = json.dumps(
        [[link.settings for link in pipeline.chain] for _, pipeline in app.extensions["routes"]]
    )

    assert "canary" not in text
