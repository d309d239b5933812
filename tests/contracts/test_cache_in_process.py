"""The cache between the pair: tags both ways, answers that stand in while AWS fails, secrets in no store."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, NoCredentialsError

from main_api.exchange import Caller
from main_api.policies.coalescing import Flights
from main_api.scopes import ANYBODY
from main_api.state.entries import pack
from main_api.state.memory import MemoryStore
from tests.main_api.policies.fakes import until, waiting

MakePair = Callable[..., Any]
MADE = datetime(2023, 12, 1, tzinfo=UTC)
TOKEN = "0123456789abcdef"
CANARY = "canary-5f0e9c"
BUCKETS, LIST, ONE = "/api/s3/buckets", "/api/parameters/list", "/api/parameters?name=a"
TARGETS = [BUCKETS, LIST, ONE]


class Opened(MemoryStore):
    """The store, and all that was ever put into it, as bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.seen = b""

    def put(self, key: str, entry: Any) -> bool:
        self.seen += key.encode() + pack(entry)
        return super().put(key, entry)


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[Opened]:
    """Give the stores of the gateways that are made."""
    made: list[Opened] = []

    def make(size: int) -> Opened:
        made.append(Opened(size))
        return made[-1]

    monkeypatch.setattr("main_api.parts.MemoryStore", make)
    return made


@pytest.fixture
def flights(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Flights[Any]]]:
    """Give the calls under way of the gateways that are made; none is when the test ends."""
    made: list[Flights[Any]] = []

    def make() -> Flights[Any]:
        made.append(Flights())
        return made[-1]

    monkeypatch.setattr("main_api.routing.service.Flights", make)
    yield made
    assert [len(each) for each in made] == [0]


def aws_with(
    value: str = "value", version: int = 1, kind: str = "String", made: datetime = MADE
) -> Callable[..., dict[str, Any]]:
    """Answer as AWS does that has one bucket and one parameter."""

    def answer(operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        if operation == "ListBuckets":
            return {"Buckets": [{"Name": value, "CreationDate": made}]}
        hidden = kind == "SecureString" and not asked.get("WithDecryption")
        parameter = {
            "Name": "/myproject/a",
            "Type": kind,
            "Value": "AQICAH" if hidden else value,
            "Version": version,
            "LastModifiedDate": made,
            "DataType": "text",
        }
        return {"Parameter": parameter} if operation == "GetParameter" else {"Parameters": [parameter]}

    return answer


FAILURES: dict[str, Callable[[Any], None]] = {
    "aws_throttled": lambda aws: aws.fail("ThrottlingException"),
    "aws_timeout": lambda aws: aws.fail("RequestTimeout"),
    "aws_unreachable": lambda aws: setattr(aws, "answer", EndpointConnectionError(endpoint_url="x")),
    "aws_error": lambda aws: aws.fail("InternalServerError", 500),
}
FINAL: dict[str, Callable[[Any], None]] = {
    "aws_access_denied": lambda aws: aws.fail("AccessDeniedException"),
    "aws_credentials": lambda aws: setattr(aws, "answer", NoCredentialsError()),
}


def status_of(answer: Any) -> str:
    return str(answer.headers.get("Cache-Status"))


@pytest.mark.parametrize("target", TARGETS)
def test_a_second_request_costs_a_304_and_has_the_same_body(
    target: str, pair_over_fake_aws: MakePair
) -> None:
    pair = pair_over_fake_aws()
    pair.aws.answer = aws_with()

    first, second = (pair.gateway.get(target) for _ in range(2))

    assert [each.status_code for each in pair.wire.answers] == [200, 304]
    assert pair.wire.sent[1].headers["If-None-Match"] == first.headers["ETag"]
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.get_json()["data"] == second.get_json()["data"]
    assert first.get_json()["versions"] == second.get_json()["versions"]
    assert status_of(first) == "main-api; fwd=uri-miss; fwd-status=200; stored; ttl=0"
    assert status_of(second) == "main-api; fwd=stale; fwd-status=304; stored; ttl=0"
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]


@pytest.mark.parametrize("target", TARGETS)
def test_what_changed_is_given_anew(target: str, pair_over_fake_aws: MakePair) -> None:
    pair = pair_over_fake_aws()
    pair.aws.answer = aws_with("one")
    first = pair.gateway.get(target)
    pair.aws.answer = aws_with("two", version=2)

    second = pair.gateway.get(target)

    assert "two" in second.text
    assert second.headers["ETag"] != first.headers["ETag"]
    assert status_of(second).startswith("main-api; fwd=stale; fwd-status=200; stored")


@pytest.mark.parametrize("value", ["one", "two"])
@pytest.mark.parametrize("target", TARGETS)
def test_what_was_deleted_and_made_anew_is_never_given_by_the_old_tag(
    target: str, value: str, pair_over_fake_aws: MakePair
) -> None:
    """SSM begins again at version 1; nobody asked while it was gone."""
    pair = pair_over_fake_aws()
    pair.aws.answer = aws_with("one")
    first = pair.gateway.get(target)
    pair.aws.answer = aws_with(value, made=MADE + timedelta(seconds=1))

    second = pair.gateway.get(target)

    assert pair.wire.answers[1].status_code == 200
    assert second.headers["ETag"] != first.headers["ETag"]
    assert second.get_json()["data"]["data"] != first.get_json()["data"]["data"]
    assert value in second.text


@pytest.mark.parametrize("target", TARGETS)
def test_a_fresh_answer_costs_no_call_and_has_an_age(target: str, pair_over_fake_aws: MakePair) -> None:
    pair = pair_over_fake_aws(BUCKETS_MAX_AGE="60", PARAMETERS_MAX_AGE="60")
    pair.aws.answer = aws_with()

    first = pair.gateway.get(target)
    second = pair.gateway.get(target, headers={"X-Request-ID": "an-id.2"})
    head = pair.gateway.head(target)
    tagged = pair.gateway.get(target, headers={"If-None-Match": first.headers["ETag"]})

    assert len(pair.wire.sent) == 1
    assert "Age" not in first.headers
    assert second.get_json()["data"] == first.get_json()["data"]
    assert second.headers["X-Request-ID"] == "an-id.2"
    assert (head.status_code, head.data) == (200, b"")
    assert (tagged.status_code, tagged.data) == (304, b"")
    for answer in (second, head, tagged):
        assert int(answer.headers["Age"]) <= 5
        assert status_of(answer).startswith("main-api; hit; ttl=")
        assert answer.headers["ETag"] == first.headers["ETag"]
        assert answer.headers["Cache-Control"] == "max-age=60, stale-if-error=300"


def test_a_head_is_stored_as_the_get_that_it_is_asked_as(pair_over_fake_aws: MakePair) -> None:
    pair = pair_over_fake_aws(BUCKETS_MAX_AGE="60")
    pair.aws.answer = aws_with()

    pair.gateway.head(BUCKETS)

    assert pair.gateway.get(BUCKETS).get_json()["data"]["count"] == 1
    assert [each.method for each in pair.wire.sent] == ["GET"]


@pytest.mark.parametrize("code", FAILURES)
@pytest.mark.parametrize("target", TARGETS)
def test_while_aws_fails_the_last_answer_stands_in(
    target: str, code: str, pair_over_fake_aws: MakePair
) -> None:
    pair = pair_over_fake_aws(RETRY_ATTEMPTS="1")
    pair.aws.answer = aws_with()
    before = pair.gateway.get(target)
    FAILURES[code](pair.aws)

    after = pair.gateway.get(target)
    anew = pair.gateway.get(target, headers={"Cache-Control": "no-cache"})

    assert after.status_code == 200
    assert after.get_json()["data"] == before.get_json()["data"]
    assert status_of(after).startswith(f"main-api; fwd=stale; detail={code}; ttl=")
    assert int(after.headers["Age"]) <= 5
    assert (anew.status_code >= 500, anew.get_json()["code"]) == (True, code)
    assert "Cache-Status" not in anew.headers


def test_while_aws_does_not_answer_in_time_the_last_answer_stands_in(pair_over_fake_aws: MakePair) -> None:
    pair = pair_over_fake_aws(RETRY_ATTEMPTS="1")
    pair.aws.answer = aws_with()
    pair.gateway.get(ONE)
    pair.aws.answer = ConnectTimeoutError(endpoint_url="x")

    answer = pair.gateway.get(ONE)

    assert answer.status_code == 200
    assert "; fwd=stale; detail=aws_" in status_of(answer)


@pytest.mark.parametrize("code", FINAL)
@pytest.mark.parametrize("target", TARGETS)
def test_where_aws_forbids_nothing_stands_in(target: str, code: str, pair_over_fake_aws: MakePair) -> None:
    pair = pair_over_fake_aws(RETRY_ATTEMPTS="1")
    pair.aws.answer = aws_with()
    pair.gateway.get(target)
    FINAL[code](pair.aws)

    answer = pair.gateway.get(target)

    assert (answer.status_code >= 500, answer.get_json()["code"]) == (True, code)
    assert "Cache-Status" not in answer.headers


def test_what_was_deleted_does_not_come_back_when_aws_fails(pair_over_fake_aws: MakePair) -> None:
    pair = pair_over_fake_aws(RETRY_ATTEMPTS="1")
    pair.aws.answer = aws_with(CANARY)
    assert pair.gateway.get(ONE).status_code == 200
    pair.aws.fail("ParameterNotFound")
    assert pair.gateway.get(ONE).status_code == 404
    pair.aws.fail("ThrottlingException")

    answer = pair.gateway.get(ONE)

    assert (answer.status_code, answer.get_json()["code"]) == (503, "aws_throttled")
    assert CANARY not in answer.text


def test_behind_an_open_breaker_the_last_answer_stands_in(pair_over_fake_aws: MakePair) -> None:
    pair = pair_over_fake_aws(RETRY_ATTEMPTS="1", BREAKER_FAILURES_IN_A_ROW="2")
    pair.aws.answer = aws_with()
    before = pair.gateway.get(BUCKETS)
    send = pair.wire.send
    pair.wire.send = lambda *_, **__: (_ for _ in ()).throw(ConnectionResetError("reset"))
    answers = [pair.gateway.get(BUCKETS) for _ in range(4)]
    pair.wire.send = send

    assert [each.status_code for each in answers] == [200] * 4
    assert {each.text for each in answers if each.get_json()["data"] != before.get_json()["data"]} == set()
    details = [status_of(each).partition("detail=")[2].partition(";")[0] for each in answers]
    assert details == ["bad_gateway", "bad_gateway", "circuit_open", "circuit_open"]


def test_without_a_cache_nothing_stands_in(pair_over_fake_aws: MakePair) -> None:
    pair = pair_over_fake_aws(RETRY_ATTEMPTS="1", CACHE_BYTES="0")
    pair.aws.answer = aws_with()
    assert "Cache-Status" not in pair.gateway.get(BUCKETS).headers
    pair.aws.fail("ThrottlingException")

    assert pair.gateway.get(BUCKETS).status_code == 503
    assert [each.headers.get("If-None-Match") for each in pair.wire.sent] == [None, None]


def with_scopes(monkeypatch: pytest.MonkeyPatch, *scopes: str) -> None:
    """Have every client of every gateway hold these scopes, as one that is authenticated does."""
    monkeypatch.setattr(
        "main_api.routing.forward.Caller",
        lambda address, **_: Caller(address, "subject", frozenset((*ANYBODY, *scopes))),
    )


DECRYPTED = ["/api/parameters?name=a&decrypt=true", "/api/parameters/list?decrypt=true"]


@pytest.mark.parametrize("target", DECRYPTED)
def test_a_secret_is_in_no_store_and_asked_for_each_time(
    target: str, pair_over_fake_aws: MakePair, stores: list[Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pair_over_fake_aws(INTERNAL_TOKEN=TOKEN, ALLOW_DECRYPTION="true", PARAMETERS_MAX_AGE="60")
    pair.aws.answer = aws_with(CANARY, kind="SecureString")
    with_scopes(monkeypatch, "parameters:decrypt")

    answers = [pair.gateway.get(target) for _ in range(2)]

    assert [CANARY in each.text for each in answers] == [True, True]
    assert [each.headers["Cache-Control"] for each in answers] == ["no-store", "no-store"]
    assert [status_of(each) for each in answers] == ["main-api; fwd=bypass"] * 2
    assert len(pair.wire.sent) == 2
    [store] = stores
    assert (store.seen, store.used) == (b"", 0)


@pytest.mark.parametrize("target", DECRYPTED)
def test_a_secret_that_many_ask_for_at_once_goes_to_each_by_a_call_of_its_own(
    target: str,
    pair_over_fake_aws: MakePair,
    stores: list[Opened],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = pair_over_fake_aws(
        INTERNAL_TOKEN=TOKEN, ALLOW_DECRYPTION="true", GUNICORN_THREADS="8", REQUEST_TIMEOUT="30"
    )
    go, given = threading.Event(), aws_with(CANARY, kind="SecureString")
    with_scopes(monkeypatch, "parameters:decrypt")

    def held(operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        assert go.wait(10)
        return given(operation, asked)

    pair.aws.answer = held
    with ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(pair.gateway_app.test_client().get, target) for _ in range(8)]
        until(lambda: len(pair.wire.sent) == 8)
        go.set()
        answers = [each.result(20) for each in asking]

    assert [CANARY in each.text for each in answers] == [True] * 8
    assert len(pair.wire.sent) == 8
    assert not any("collapsed" in status_of(each) for each in answers)
    assert (stores[0].seen, stores[0].used) == (b"", 0)


def test_callers_with_other_scopes_share_nothing(
    pair_over_fake_aws: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pair_over_fake_aws(INTERNAL_TOKEN=TOKEN, BUCKETS_MAX_AGE="60", RETRY_ATTEMPTS="1")
    pair.aws.answer = aws_with()
    with_scopes(monkeypatch, "a")
    pair.gateway.get(BUCKETS)
    with_scopes(monkeypatch, "a", "b")

    second = pair.gateway.get(BUCKETS)
    with_scopes(monkeypatch)
    pair.aws.fail("ThrottlingException")
    third = pair.gateway.get(BUCKETS)

    assert status_of(second).startswith("main-api; fwd=uri-miss")
    assert third.status_code == 503


def test_no_credential_and_nothing_of_a_request_is_in_the_store(
    pair_over_fake_aws: MakePair, stores: list[Opened]
) -> None:
    pair = pair_over_fake_aws(INTERNAL_TOKEN=TOKEN)
    pair.aws.answer = aws_with()
    headers = {
        "X-Request-ID": f"{CANARY}-id",
        "Authorization": f"Bearer {CANARY}",
        "Cookie": f"a={CANARY}",
        "traceparent": "00-" + "c" * 32 + "-" + "d" * 16 + "-01",
        "User-Agent": CANARY,
    }

    for target in TARGETS:
        for _ in range(2):
            assert pair.gateway.get(target, headers=headers).status_code == 200

    [store] = stores
    assert b"/aws/s3/buckets?" in store.seen
    for secret in (CANARY, TOKEN, "c" * 32, "127.0.0.1"):
        assert secret.encode() not in store.seen


def test_fifty_at_once_cost_one_call_and_each_has_its_own_id(
    pair_over_fake_aws: MakePair, flights: list[Flights[Any]]
) -> None:
    pair = pair_over_fake_aws(GUNICORN_THREADS="50", REQUEST_TIMEOUT="30")
    go, given = threading.Event(), aws_with()

    def held(operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        assert go.wait(10)
        return given(operation, asked)

    pair.aws.answer = held
    with ThreadPoolExecutor(50) as threads:
        asking = [
            threads.submit(pair.gateway_app.test_client().get, BUCKETS, headers={"X-Request-ID": f"id-{n}"})
            for n in range(50)
        ]
        until(lambda: waiting(flights[0]) == 49)
        go.set()
        answers = [each.result(20) for each in asking]

    assert len(pair.aws.calls) == len(pair.wire.sent) == 1
    assert [each.status_code for each in answers] == [200] * 50
    assert [each.headers["X-Request-ID"] for each in answers] == [f"id-{n}" for n in range(50)]
    assert sum("collapsed" in status_of(each) for each in answers) == 49


RESULTS = ("hit", "miss", "validated", "collapsed", "stale", "uncacheable")


def counted(pair: Any) -> dict[str, float]:
    """Read how many answers there were; all gateways of the tests write into one place."""
    text: str = pair.gateway.get("/metrics").text
    found = {}
    for result in RESULTS:
        sample = f'\ncache_answers_total{{result="{result}",service="auxiliary-service"}} '
        found[result] = float(text.partition(sample)[2].partition("\n")[0] or 0)
    return found


def test_every_answer_is_counted_once(pair_over_fake_aws: MakePair) -> None:
    pair = pair_over_fake_aws(BUCKETS_MAX_AGE="60", RETRY_ATTEMPTS="1")
    before = counted(pair)
    pair.aws.answer = aws_with()
    for target, value in ((BUCKETS, ""), (BUCKETS, ""), (BUCKETS, "no-store"), (LIST, ""), (LIST, "")):
        assert pair.gateway.get(target, headers={"Cache-Control": value}).status_code == 200
    pair.aws.fail("ThrottlingException")
    assert pair.gateway.get(LIST).status_code == 200
    assert pair.gateway.get(ONE).status_code == 503

    after = counted(pair)
    assert {result: after[result] - before[result] for result in RESULTS} == {
        "hit": 1,
        "miss": 2,
        "validated": 1,
        "collapsed": 0,
        "stale": 1,
        "uncacheable": 1,
    }
