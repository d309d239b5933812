"""A Redis that stops, hangs, restarts and holds nonsense: no client notices, and no secret is in it."""

import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from main_api.state.redis_values import read
from tests.end_to_end.processes import ROOT, Answer, Server, request, until
from tests.faults import load
from tests.faults.instances import attempts, upstreams
from tests.faults.redis_server import RedisServer, redis_server
from tests.faults.support import READ, gateway, metric, per_form, say

FRESH = "max-age=1, stale-if-error=300"
LONG_FRESH = "max-age=600, stale-if-error=300"
# What a Redis that is gone may add to an answer, in seconds, and what it may add to nearly all of them. It is
# 99.9 % of the answers that are compared with the slowest of before: the slowest of all is of the machine's
# making on two busy cores, and those that try are more than one in a thousand.
MOST_ADDED = 0.060
HARDLY_ANY = 0.020
TARGETS = 20
GUARD = "main_api.state.redis_guard"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def tag(number: int) -> str:
    return f"{READ}{number % TARGETS}"


def of_target(_: str, target: str, body: bytes) -> bool:
    """Whether an answer is of this target, whoever's request it was first made for."""
    return b'name=tag%%2F%s"' % target.rpartition("/")[2].encode() in body


def shown(answer: Answer) -> str:
    return str(answer.headers["Cache-Status"])


def kept(server: Server, target: str) -> None:
    """Ask until the answer is in Redis; on a busy machine Redis may be too late for the first one."""

    def asked() -> bool:
        return any(word in shown(request(server.port, target)) for word in ("stored", "hit"))

    until(asked, f"{target} is kept")


def client(redis: RedisServer) -> Redis:
    return Redis(host="127.0.0.1", port=redis.port)


def sounds(server: Server) -> list[str]:
    """Give what the guard has logged."""
    return [line["message"] for line in server.lines() if line["logger"] == GUARD]


def run(server: Server, seconds: float, each: Callable[[float], None] | None = None) -> load.Result:
    """Load with 8 connections; every answer must be there and be the right one."""
    result = load.closed(server.port, tag, 8, 10**9, seconds, check=of_target, each=each)
    assert dict(result.statuses) == {200: result.done}
    assert (result.wrong, result.broken) == ([], {})
    return result


def worst(result: load.Result) -> float:
    return result.percentile(200, 100)


def figures(name: str, result: load.Result) -> str:
    times = (result.median(), result.percentile(200, 99), result.percentile(200, 99.9), worst(result))
    text = "  ".join(f"{seconds * 1000:7.2f}" for seconds in times)
    return f"{name:22} {result.done:6} answers, ms: median, 99 %, 99.9 %, most  {text}"


def hits_and_backs(server: Server) -> tuple[float, float]:
    return (
        metric(server, "cache_answers_total", result="hit"),
        metric(server, "redis_changes_total", state="back"),
    )


def at(moment: float, act: Callable[[], object]) -> Callable[[float], None]:
    """Have ``act`` called once, so many seconds into a run."""
    waiting = [act]

    def each(seconds: float) -> None:
        if waiting and seconds >= moment:
            waiting.pop()()

    return each


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP], ids=lambda each: each.name
)
def test_no_request_fails_or_waits_while_redis_is_gone(redis: RedisServer, signum: signal.Signals) -> None:
    seconds = per_form(4, 30)
    come_back = redis.cont if signum == signal.SIGSTOP else redis.begin
    with (
        upstreams(1, cache_control=FRESH) as instances,
        gateway(instances, REDIS_URL=redis.url, LOG_LEVEL="info") as server,
    ):
        # The first answers are slower, with and without Redis.
        run(server, 1)
        before = run(server, seconds)
        # Both changes are within a load, so that requests are at Redis in that moment.
        going = run(server, seconds, at(1, lambda: redis.send(signum)))
        hits, backs = hits_and_backs(server)
        gone = run(server, seconds)
        assert hits_and_backs(server) == (hits, backs)
        back = run(server, seconds, at(1, come_back))

        runs = {"before": before, signum.name: going, "gone": gone, "back": back}
        for name, result in runs.items():
            say(figures(name, result))
        hits = hits_and_backs(server)[0] - hits
        say(f"{hits:.0f} hits after it was back; {sounds(server)}")
        for result in (going, gone, back):
            assert result.percentile(200, 99.9) <= worst(before) + MOST_ADDED
            assert result.percentile(200, 99) <= worst(before) + HARDLY_ANY
        # A line for each change and not for each request; a busy machine may add a pair.
        assert 2 <= len(sounds(server)) <= 6
        assert sounds(server)[-1].endswith("is back")
        # Away for two of its seconds at most: the first one, and what is left of the guard's own.
        assert hits > back.done / 4
        assert client(redis).dbsize() == TARGETS


def test_a_gateway_starts_and_serves_without_its_redis_and_finds_it_later(redis: RedisServer) -> None:
    redis.stop()
    with (
        upstreams(1, cache_control=LONG_FRESH) as instances,
        gateway(instances, REDIS_URL=redis.url, LOG_LEVEL="info") as server,
    ):
        first = [request(server.port, tag(0)) for _ in range(3)]
        assert [answer.status for answer in first] == [200] * 3
        assert ["stored" in shown(answer) or "hit" in shown(answer) for answer in first] == [False] * 3
        redis.start()
        until(lambda: "hit" in shown(request(server.port, tag(0))), "it is used", 5)


def test_two_gateways_share_what_either_was_told(redis: RedisServer, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with (
        upstreams(1, journal=journal, cache_control=LONG_FRESH) as instances,
        gateway(instances, REDIS_URL=redis.url) as one,
        gateway(instances, REDIS_URL=redis.url) as other,
        gateway(instances, REDIS_URL=redis.url, APP_ENV="elsewhere") as foreign,
    ):
        asked = request(one.port, tag(1))
        hit = request(other.port, tag(1))

        assert "fwd=uri-miss" in shown(asked)
        assert "stored" in shown(asked)
        assert shown(hit).startswith("main-api; hit")
        assert hit.json["data"] == asked.json["data"]
        assert attempts(journal).total() == 1
        assert "fwd=uri-miss" in shown(request(foreign.port, tag(1)))


def test_when_the_service_fails_a_gateway_gives_what_another_was_told(redis: RedisServer) -> None:
    with (
        upstreams(1, cache_control=FRESH) as instances,
        gateway(instances, REDIS_URL=redis.url) as one,
        gateway(instances, REDIS_URL=redis.url) as other,
    ):
        told = request(one.port, tag(1)).json["data"]
        instances[0].kill()
        time.sleep(1.1)

        answer = request(other.port, tag(1))

        assert (answer.status, answer.json["data"]) == (200, told)
        assert "fwd=stale" in shown(answer)


def test_nothing_in_redis_is_a_secret(redis: RedisServer) -> None:
    token = "canary-of-the-internal-token"
    with (
        upstreams(1, cache_control=LONG_FRESH) as instances,
        gateway(instances, REDIS_URL=redis.url, INTERNAL_TOKEN=token) as server,
    ):
        credentials = {
            "Authorization": "Bearer canary-of-a-client",
            "X_API_Key": "canary-of-a-key",
            "Cookie": "session=canary-of-a-session",
            "Proxy_Authorization": "Basic canary-of-a-proxy",
        }
        for number in range(TARGETS):
            request(server.port, tag(number), **credentials)
            kept(server, tag(number))
        names = list(client(redis).scan_iter())
        values = [client(redis).get(name) for name in names]
        lives = [client(redis).ttl(name) for name in names]

        assert len(names) == TARGETS
        assert all(0 < life <= 900 for life in lives)
        for name, value in zip(names, values, strict=True):
            assert isinstance(value, bytes)
            # Readable at all, so that what is not in it is really not in it.
            entry = read(value)
            assert entry is not None
            assert b'"target"' in entry.body
            everything = name + value + plain(value) + repr(entry).encode()
            assert b"canary" not in everything
            assert b"authorization" not in everything.lower()
            assert b"cookie" not in everything.lower()
            assert b"tag" not in name


def plain(value: bytes) -> bytes:
    return zlib.decompress(value[5:]) if value[0] == 1 else value[5:]


@pytest.mark.parametrize("damage", [b"", b"nonsense", bytes(2 * 1024 * 1024), None])
def test_a_damaged_value_is_a_miss_and_is_replaced(
    redis: RedisServer, damage: bytes | None, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with (
        upstreams(1, journal=journal, cache_control=LONG_FRESH) as instances,
        gateway(instances, REDIS_URL=redis.url) as server,
    ):
        kept(server, tag(1))
        [name] = client(redis).scan_iter()
        whole = client(redis).get(name)
        assert isinstance(whole, bytes)
        if damage is None:
            client(redis).delete(name)
            client(redis).rpush(name, "of another kind")
        else:
            client(redis).set(name, damage or whole[:-1])

        missed = request(server.port, tag(1))

        assert (missed.status, "fwd=uri-miss" in shown(missed)) == (200, True)
        assert attempts(journal).total() >= 2
        until(lambda: "hit" in shown(request(server.port, tag(1))), "it is replaced")
        replaced = client(redis).get(name)
        assert isinstance(replaced, bytes)
        assert read(replaced) is not None


def test_a_redis_without_room_or_with_another_password_is_no_error() -> None:
    with (
        redis_server("--maxmemory", "1", "--maxmemory-policy", "noeviction") as full,
        redis_server("--requirepass", "right") as closed,
        upstreams(1, cache_control=LONG_FRESH) as instances,
    ):
        wrong = closed.url.replace("//", "//:wrong-canary@")
        for url, said in ((full.url, "refuses: OutOfMemoryError"), (wrong, "is away: AuthenticationError")):
            with gateway(instances, REDIS_URL=url) as server:
                answers = [request(server.port, tag(1)) for _ in range(3)]

                assert [answer.status for answer in answers] == [200] * 3
                assert not any("hit" in shown(answer) for answer in answers)
                [line] = sounds(server)
                assert said in line
                assert "canary" not in server.log()


def test_a_redis_is_not_left_behind_not_even_a_paused_one() -> None:
    with redis_server() as one:
        one.pause()
        assert one.running
    assert not one.running
    with redis_server() as other:
        other.stop()
        assert not other.running
        other.start()
        assert client(other).ping()


def command(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run ``main-api`` as an operator does; give its exit status and what it printed."""
    ended = subprocess.run(
        [sys.executable, "-m", "main_api.cli", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "APP_ENV": "development", **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_a_purge_removes_what_all_gateways_keep_and_says_when_it_cannot(redis: RedisServer) -> None:
    with (
        upstreams(1, cache_control=LONG_FRESH) as instances,
        gateway(instances, REDIS_URL=redis.url) as server,
    ):
        for number in range(TARGETS):
            kept(server, tag(number))
        kept(server, "/api/s3/buckets")

        assert command("cache", "purge", "/aws/parameters", REDIS_URL=redis.url) == (0, f"{TARGETS}\n", "")
        assert client(redis).dbsize() == 1
        assert "fwd=uri-miss" in shown(request(server.port, tag(1)))
        kept(server, tag(1))
        assert command("cache", "purge", REDIS_URL=redis.url) == (0, "2\n", "")

    redis.stop()
    status, printed, complaint = command("cache", "purge", REDIS_URL=redis.url.replace("//", "//:canary@"))
    assert (status, printed) == (1, "")
    assert f"127.0.0.1:{redis.port} is away" in complaint
    assert "canary" not in complaint
    assert "Traceback" not in complaint


def test_a_purge_of_many_goes_page_by_page_and_hurts_nobody(redis: RedisServer) -> None:
    count = 50_000
    with client(redis) as filling:
        pipe = filling.pipeline(transaction=False)
        for number in range(count):
            pipe.set(f"main-api:development:cache:v1:auxiliary-service /aws/parameters?{number:064x}", b"x")
            pipe.set(f"of:somebody:else:{number}", b"x")
        pipe.execute()
    with (
        upstreams(1, cache_control=LONG_FRESH) as instances,
        gateway(instances, REDIS_URL=redis.url) as server,
    ):
        run(server, 1)
        before = run(server, 2)
        purges: list[subprocess.Popen[str]] = []

        def purge() -> None:
            environment = {"PATH": os.environ["PATH"], "APP_ENV": "development", "REDIS_URL": redis.url}
            purges.append(
                subprocess.Popen(
                    [sys.executable, "-m", "main_api.cli", "cache", "purge"],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )

        during = run(server, 4, at(0.5, purge))
        removed, _ = purges[0].communicate(timeout=30)

        say(figures("before", before))
        say(figures("purge of 50,000", during))
        say(f"{removed.strip()} removed; {sounds(server)}")
        assert int(removed) >= count
        # The command's own start takes one of the cores for a while.
        assert during.percentile(200, 99) <= worst(before) + MOST_ADDED
        with client(redis) as left:
            assert left.dbsize() <= count + TARGETS
