"""The command line."""

import os
from typing import Any

import pytest

from main_api import cli
from main_api.state import redis_connections
from main_api.state.entries import Entry
from main_api.state.redis_guard import RedisGuard
from main_api.state.redis_store import RedisStore
from tests.main_api.state.redis_fake import FakeRedis

HELP = "usage: main-api"
LINKS = "rate_limit > query > admission > cache > retry > balance > breaker > send"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PORT",
        "AUXILIARY_SERVICE_URL",
        "LOG_LEVEL",
        "POOL_SIZE",
        "GUNICORN_THREADS",
        "INTERNAL_TOKEN",
        "APP_ENV",
        "CACHE_BYTES",
        "REDIS_URL",
    ):
        monkeypatch.delenv(name, raising=False)


def test_routes_are_tab_separated_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["routes"]) == 0

    printed = capsys.readouterr()
    lines = [line.split("\t") for line in printed.out.splitlines()]
    assert {len(columns) for columns in lines} == {3}
    assert ["GET", "/api/s3/buckets", LINKS] in lines
    assert ["GET", "/api/parameters", LINKS.replace("admission", "scopes > admission")] in lines
    assert ["GET", "/api/health/ready", "function"] in lines
    assert printed.err == ""


def test_routes_are_those_of_the_app(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.main_api.support import Answer, Upstream, app_of

    cli.main(["routes"])

    plain = {"/api/health", "/api/health/serving", "/metrics"}
    rules = {rule.rule for rule in app_of(Upstream(Answer())).url_map.iter_rules()}
    assert {line.split("\t")[1] for line in capsys.readouterr().out.splitlines()} == rules - plain


def test_wrong_settings_are_2_and_each_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("LOG_LEVEL", "loud")

    assert cli.main(["routes"]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "PORT" in printed.err
    assert "LOG_LEVEL" in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["routes", "--help"], 0),
        (["cache", "--help"], 0),
        (["cache", "purge", "--help"], 0),
        ([], 2),
        (["x"], 2),
        (["cache"], 2),
        (["cache", "x"], 2),
        (["cache", "purge", "aws/parameters"], 2),
        (["cache", "purge", "/aws", "/more"], 2),
    ],
)
def test_help_is_0_and_what_is_no_command_is_2(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)

    printed = capsys.readouterr()
    assert ended.value.code == status
    assert HELP in printed.out + printed.err


def test_without_arguments_the_processs_own_are_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["main-api", "routes"])

    assert cli.main() == 0
    assert os.linesep in capsys.readouterr().out


# cache purge.

ANSWER = Entry(status=200, headers=(), body=b"{}", born=4e9, lifetime=60.0)
KEYS = ("s /aws/parameters?a#", "s /aws/parameters/list?#", "s /aws/s3/buckets?#")


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> FakeRedis:
    """Stand in for the Redis of REDIS_URL; there are answers in it."""
    fake: Any = FakeRedis()

    def connect(url: str, connections: int, timeout: float) -> FakeRedis:
        assert (url, timeout) == ("redis://:canary@cache:6380", 5.0)
        assert connections >= 1
        return fake  # type: ignore[no-any-return]

    monkeypatch.setattr(redis_connections, "connect", connect)
    monkeypatch.setenv("REDIS_URL", "redis://:canary@cache:6380")
    for name in ("production", "staging"):
        for key in KEYS:
            RedisStore(RedisGuard(fake, ""), f"main-api:{name}:cache").put(key, ANSWER)
    return fake  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("prefix", "removed"),
    [([], 3), ([""], 3), (["/"], 3), (["/aws/parameters"], 2), (["/aws/parameters?"], 1), (["/none"], 0)],
)
def test_purge_removes_the_answers_of_a_path_and_prints_how_many(
    redis: FakeRedis, prefix: list[str], removed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["cache", "purge", *prefix]) == 0

    assert capsys.readouterr() == (f"{removed}\n", "")
    assert len(redis.values) == 2 * len(KEYS) - removed
    assert sum(b":staging:" in name for name in redis.values) == len(KEYS)


def test_purge_removes_what_a_gateway_keeps(redis: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_ENV", "staging")
    monkeypatch.setenv("CACHE_BYTES", "0")

    assert cli.main(["cache", "purge", "/aws/parameters"]) == 0

    assert sum(b":staging:" in name for name in redis.values) == 1


def test_without_a_redis_purge_says_whose_answers_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "purge"]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "REDIS_URL" in printed.err
    assert "each worker" in printed.err


def test_purge_says_where_the_redis_is_that_is_away(
    redis: FakeRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    from redis.exceptions import TimeoutError as TimedOut

    redis.error = TimedOut("Timeout reading from socket")

    assert cli.main(["cache", "purge"]) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "cache:6380" in printed.err
    assert "canary" not in printed.err
    assert "Traceback" not in printed.err


def test_purge_stops_at_wrong_settings_and_does_not_repeat_the_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:canary@")

    assert cli.main(["cache", "purge"]) == 2

    printed = capsys.readouterr()
    assert (printed.out, "REDIS_URL" in printed.err, "canary" in printed.err) == ("", True, False)


def test_the_help_of_purge_says_what_it_does_and_how_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["cache", "purge", "--help"])

    text = capsys.readouterr().out
    for word in (
        "PREFIX",
        "REDIS_URL",
        "APP_ENV",
        "/aws/parameters",
        "how many",
        "0 when",
        "1 when",
        "2 without",
    ):
        assert word in text
