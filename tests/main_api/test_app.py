"""The app as it is put together: what is made of which setting, and what is left for the worker to start."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from main_api.exchange import Instance
from main_api.upstream.health_checks import HealthChecks
from tests.main_api.support import BODY, Answer, Upstream, app_of, gateway, settings

WELL = Answer(b'{"status":"healthy"}')


def test_the_checks_of_each_service_are_left_for_the_worker_to_start() -> None:
    [checks] = app_of(Upstream(WELL)).extensions["background"]

    assert isinstance(checks, HealthChecks)


def test_without_an_interval_there_is_nothing_to_start() -> None:
    assert app_of(Upstream(WELL), HEALTH_CHECK_INTERVAL="0").extensions["background"] == []


def test_making_an_app_starts_nothing_and_asks_nobody() -> None:
    before = set(threading.enumerate())
    upstream = Upstream(WELL)

    app_of(upstream)

    assert set(threading.enumerate()) == before
    assert upstream.sent == []


def test_two_apps_of_one_process_have_checks_of_their_own() -> None:
    [one], [other] = (app_of(Upstream(WELL)).extensions["background"] for _ in range(2))

    assert one is not other


# So short that every round is everybody's turn.
ALWAYS = "0.000001"


def a_round_of(checks: HealthChecks) -> None:
    with ThreadPoolExecutor(1) as pool:
        checks.round(pool)


def test_the_checks_ask_every_instance_by_the_path_that_is_set() -> None:
    upstream = Upstream(WELL)
    app = app_of(
        upstream,
        AUXILIARY_SERVICE_URL="http://a.test,https://b.test;weight=3",
        HEALTH_CHECK_INTERVAL=ALWAYS,
        HEALTH_CHECK_PATH="/well?deep=1",
        HEALTH_CHECK_TIMEOUT="0.25",
    )

    a_round_of(app.extensions["background"][0])

    assert [each.url for each in upstream.sent] == [
        "http://a.test/well?deep=1",
        "https://b.test/well?deep=1",
    ]
    assert all(0 < read <= 0.25 for _, read in upstream.timeouts)


def test_an_instance_that_the_checks_find_ill_is_left_out_of_the_requests() -> None:
    """What the checks record is what the balance reads."""

    def respond(request: requests.PreparedRequest) -> Answer | Exception:
        ill = "b.test" in str(request.url) and str(request.url).endswith("/health")
        return requests.ConnectionError("refused") if ill else Answer()

    upstream = Upstream(respond)
    app = app_of(
        upstream,
        AUXILIARY_SERVICE_URL="http://a.test,http://b.test",
        HEALTH_CHECK_INTERVAL=ALWAYS,
        HEALTH_CHECK_UNHEALTHY_AFTER="2",
        HEALTH_CHECK_HEALTHY_AFTER="1",
    )
    [checks] = app.extensions["background"]
    client = app.test_client()

    def hosts() -> set[str]:
        upstream.sent.clear()
        for _ in range(4):
            assert client.get("/api/s3/buckets").status_code == 200
        return {str(each.url).split("/")[2] for each in upstream.sent}

    a_round_of(checks)
    assert hosts() == {"a.test", "b.test"}
    a_round_of(checks)
    assert hosts() == {"a.test"}
    upstream.respond = lambda _: Answer()
    a_round_of(checks)
    assert hosts() == {"a.test", "b.test"}


# From the settings to the policies.


def statuses(count: int, error: Exception, **environ: str) -> tuple[list[tuple[int, str]], Upstream]:
    client, upstream = gateway(error, RETRY_BACKOFF="0", **environ)
    answers = [client.get("/api/s3/buckets") for _ in range(count)]
    return [(each.status_code, each.get_json()["code"]) for each in answers], upstream


RESET = requests.ConnectionError("reset")


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_as_many_attempts_are_made_as_are_set(attempts: int) -> None:
    _, upstream = statuses(1, RESET, RETRY_ATTEMPTS=str(attempts), BREAKER_FAILURES_IN_A_ROW="100")

    assert len(upstream.sent) == attempts


def test_by_default_three_attempts_are_made_and_five_failures_in_a_row_eject() -> None:
    given, upstream = statuses(3, RESET)

    assert given == [(502, "bad_gateway"), (502, "bad_gateway"), (503, "circuit_open")]
    assert len(upstream.sent) == 5


@pytest.mark.parametrize("failures", [1, 2, 4])
def test_the_breaker_opens_after_the_failures_that_are_set(failures: int) -> None:
    given, upstream = statuses(
        failures + 2, RESET, RETRY_ATTEMPTS="1", BREAKER_FAILURES_IN_A_ROW=str(failures)
    )

    assert given == [(502, "bad_gateway")] * failures + [(503, "circuit_open")] * 2
    assert len(upstream.sent) == failures


def test_the_breaker_opens_at_the_share_of_failures_that_is_set() -> None:
    answers = [Answer(), RESET, Answer(), RESET, Answer()]
    client, upstream = gateway(
        lambda _: answers.pop(0),
        RETRY_ATTEMPTS="1",
        BREAKER_MINIMUM_CALLS="4",
        BREAKER_FAILURE_RATE="0.5",
        BREAKER_WINDOW="600",
    )

    assert [client.get("/api/s3/buckets").status_code for _ in range(5)] == [200, 502, 200, 502, 503]
    assert len(upstream.sent) == 4


def test_the_breaker_is_open_for_the_seconds_that_are_set() -> None:
    client, _ = gateway(
        RESET,
        RETRY_ATTEMPTS="1",
        BREAKER_FAILURES_IN_A_ROW="1",
        BREAKER_OPEN_SECONDS="1000",
        BREAKER_OPEN_SECONDS_MAX="1000",
    )
    client.get("/api/s3/buckets")

    assert 899 <= client.get("/api/s3/buckets").get_json()["retryAfter"] <= 1000


def test_a_bucket_of_one_token_gives_one_retry() -> None:
    _, upstream = statuses(3, RESET, RETRY_TOKENS="1", RETRY_ATTEMPTS="5", BREAKER_FAILURES_IN_A_ROW="100")

    # 1 + 1, and then less than half is left.
    assert len(upstream.sent) == 2 + 1 + 1


def test_the_tried_instance_is_not_tried_again_while_another_is_there() -> None:
    def respond(request: requests.PreparedRequest) -> Answer | Exception:
        return Answer() if "good.test" in str(request.url) else RESET

    client, upstream = gateway(
        respond, AUXILIARY_SERVICE_URL="http://bad.test,http://good.test", RETRY_BACKOFF="0"
    )

    assert [client.get("/api/s3/buckets").status_code for _ in range(6)] == [200] * 6
    for bad, good in zip(upstream.sent, upstream.sent[1:], strict=False):
        assert ("bad.test" not in str(bad.url)) or ("good.test" in str(good.url))


def hosts_of(upstream: Upstream) -> list[str]:
    return [str(each.url).split("/")[2].partition(".")[0] for each in upstream.sent]


def test_weights_are_shares_where_they_are_asked_for() -> None:
    client, upstream = gateway(
        Answer(), AUXILIARY_SERVICE_URL="http://a.test;weight=3,http://b.test", BALANCE="weighted"
    )

    for _ in range(8):
        client.get("/api/s3/buckets")

    assert hosts_of(upstream) == ["a", "a", "b", "a"] * 2


@pytest.mark.parametrize("by", ["path", "caller", "header:X-Tenant"])
def test_equal_keys_go_to_the_same_instance(by: str) -> None:
    urls = ",".join(f"http://{name}.test" for name in "abcd")
    client, upstream = gateway(
        Answer(),
        AUXILIARY_SERVICE_URL=urls,
        BALANCE="consistent_hash",
        BALANCE_HASH_BY=by,
        TRUSTED_PROXIES="127.0.0.0/8",
    )

    def ask(key: int) -> str:
        upstream.sent.clear()
        headers = {"X-Tenant": str(key), "X-Forwarded-For": f"192.0.2.{key}"}
        name = key if by == "path" else 0
        assert client.get(f"/api/parameters?name=p{name}", headers=headers).status_code == 200
        [host] = hosts_of(upstream)
        return host

    first = [ask(key) for key in range(40)]
    assert [ask(key) for key in range(40)] == first
    assert set(first) == set("abcd")


def test_the_share_of_the_service_is_the_one_that_is_set() -> None:
    codes: list[str | None] = []

    def respond(_: requests.PreparedRequest) -> Answer:
        if len(codes) < 3:
            codes.append(None)
            answer = app.test_client().get(f"/api/s3/buckets?prefix=inside-{len(codes)}")
            codes.append(answer.get_json().get("code"))
        return Answer(BODY)

    app = app_of(Upstream(respond), BULKHEAD="2")

    assert app.test_client().get("/api/s3/buckets").status_code == 200
    # The first and the one inside it have room; the one inside that has none.
    assert codes[2:] == ["overloaded", None]


def test_readiness_looks_past_breakers_and_checks() -> None:
    upstream = Upstream(RESET)
    app = app_of(upstream, RETRY_ATTEMPTS="1", BREAKER_FAILURES_IN_A_ROW="1")
    client = app.test_client()
    assert [client.get("/api/s3/buckets").status_code for _ in range(2)] == [502, 503]
    upstream.respond = lambda _: WELL

    assert client.get("/api/health/ready").status_code == 200
    # And says nothing to them either.
    assert client.get("/api/s3/buckets").get_json()["code"] == "circuit_open"


def test_a_service_without_lawful_numbers_does_not_come_about() -> None:
    from main_api.policies.retry import RetrySettings
    from tests.main_api.support import service

    with pytest.raises(ValueError, match=r"service s: algorithm: one of .* got 'fastest'"):
        service(lambda _: pytest.fail("asked"), algorithm="fastest")
    with pytest.raises(ValueError, match="attempts: at least 1"):
        RetrySettings(attempts=0)


def test_the_instances_are_those_of_the_settings() -> None:
    from main_api.parts import make_parts
    from main_api.upstream.versions import Versions
    from tests.main_api.support import joined, telemetry

    made = make_parts(
        settings(AUXILIARY_SERVICE_URL="http://a:1;weight=2,http://b:1"),
        joined(),
        telemetry(),
        Versions("main-api", "1", ["auxiliary-service"]),
    )

    [service] = made.services.values()
    assert [(each, each.weight) for each in service.instances()] == [
        (Instance("auxiliary-service", "http://a:1"), 2),
        (Instance("auxiliary-service", "http://b:1"), 1),
    ]
