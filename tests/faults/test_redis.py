"""A Redis that stops, hangs, restarts and holds nonsense: no client notices, and no secret is in it."""

import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from redis import Redis

from main_api.state.redis_guard import AWAY_SECONDS
from main_api.state.redis_values import read
from tests.end_to_end.processes import HOST, ROOT, Answer, Server, free_port, request, until
from tests.end_to_end.stand_in import Behaviour, body, read_head, stand_in
from tests.faults import load
from tests.faults.instances import attempts, upstreams
from tests.faults.redis_server import RedisServer, certificates, redis_server
from tests.faults.slow_redis import Slowness, black_hole, slow_redis
from tests.faults.support import READ, gateway, metric, per_form, say

FRESH = "max-age=1, stale-if-error=300"
LONG_FRESH = "max-age=600, stale-if-error=300"
# What Redis may add to any answer while it goes, is gone and comes back, in seconds, and what to nearly all.
# A load is compared with the same one of before, when Redis was there: the slowest of all answers with the
# slowest of before, and 99 % with 99 %. It is stricter than it sounds, for before most answers were hits. And
# the slowest of before it is because eight at once on two busy cores have slow ones with any Redis.
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


def slower(result: load.Result, before: load.Result) -> bool:
    """Whether any answer, or more than one in a hundred, is later than Redis may make it."""
    nearly_all, usual = result.percentile(200, 99), before.percentile(200, 99)
    return worst(result) > worst(before) + MOST_ADDED or nearly_all > usual + HARDLY_ANY


def each_time(late: Callable[[], list[str]]) -> None:
    """Fail when ``late`` finds something three times: a busy machine is late at times, Redis each time."""
    found = [late()]
    while found[-1] and len(found) < 3:
        say(f"late, so once more: {found[-1]}")
        found.append(late())
    assert found[-1] == []


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

        def late() -> list[str]:
            told = len(sounds(server))
            before = run(server, seconds)
            # Both changes are within a load, so that requests are at Redis in that moment.
            going = run(server, seconds, at(1, lambda: redis.send(signum)))
            hits, backs = hits_and_backs(server)
            gone = run(server, seconds)
            assert hits_and_backs(server) == (hits, backs)
            back = run(server, seconds, at(1, come_back))

            hits = hits_and_backs(server)[0] - hits
            kept(server, tag(0))
            told_now = sounds(server)[told:]
            # A line for each change and not for each request; a busy machine may add a pair.
            assert 2 <= len(told_now) <= 6
            assert told_now[-1].endswith("is back")
            # Away for two of its seconds at most: the first one, and what is left of the guard's own.
            assert hits > back.done / 4
            runs = {"before": before, signum.name: going, "gone": gone, "back": back}
            for name, result in runs.items():
                say(figures(name, result))
            say(f"{hits:.0f} hits after it was back; {told_now}")
            return [name for name, result in runs.items() if slower(result, before)]

        each_time(late)
        assert client(redis).dbsize() == TARGETS


Place = Callable[[int, int], AbstractContextManager[None]]


def answers(milliseconds: float, pieces: int = 1, *, half: bool = False) -> Place:
    def place(port: int, redis: int) -> AbstractContextManager[None]:
        return slow_redis(port, redis, Slowness(milliseconds / 1000, pieces, half))

    return place


# What stands before Redis, and whether it is of use all the same.
SLOW: dict[str, tuple[Place, bool]] = {
    "answers after 10 ms": (answers(10), True),
    # Nearly as much as it may take: for connecting, for looking and for keeping.
    "answers after 12 ms": (answers(12), True),
    "answers after 24 ms": (answers(24), False),
    "answers after 30 ms": (answers(30), False),
    "answers after 40 ms": (answers(40), False),
    "answers after 45 ms": (answers(45), False),
    "answers after 60 ms": (answers(60), False),
    "3 pieces, 4 ms each": (answers(4, 3), True),
    "5 pieces, 10 ms each": (answers(10, 5), False),
    "half of an answer": (answers(0, half=True), False),
    "half, after 12 ms": (answers(12, half=True), False),
    "nobody can connect": (lambda port, _: black_hole(port), False),
}


def test_a_slow_redis_adds_60_ms_at_most_to_a_request(redis: RedisServer) -> None:
    port, numbers = free_port(), itertools.count()
    added: dict[str, float] = {}
    with (
        upstreams(1, cache_control=LONG_FRESH) as instances,
        gateway(instances, REDIS_URL=f"redis://{HOST}:{port}/0") as server,
    ):

        def ask() -> float:
            # What nobody has asked for before: it is looked for and then kept, all that a request does.
            answer = request(server.port, f"{READ}{next(numbers)}")
            assert answer.status == 200
            return answer.seconds

        def most() -> float:
            # One after another, and long enough for one of them to be the one that tries.
            end = time.monotonic() + AWAY_SECONDS + 0.2
            return max(iter(lambda: ask() if time.monotonic() < end else None, None))

        # With nobody on the port: what a request takes that Redis adds nothing to.
        usual = statistics.median(ask() for _ in range(300))
        for name, (place, of_use) in SLOW.items():
            before = client(redis).dbsize()
            rounds: list[float] = []
            used = False
            # As above: what Redis adds it adds in each round. Each begins without a connection.
            while len(rounds) < 3 and not (rounds and rounds[-1] <= MOST_ADDED and used is of_use):
                with place(port, redis.port):
                    rounds.append(most() - usual)
                used = client(redis).dbsize() > before
            added[name] = min(rounds)
            say(f"{name:20}  most added, ms: {'  '.join(f'{each * 1000:.0f}' for each in rounds)}")
            # Where looking has failed, the same request does not try to keep.
            assert used is of_use, name

    assert {name: each for name, each in added.items() if each > MOST_ADDED} == {}


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


def plain(value: bytes) -> bytes:
    return zlib.decompress(value[5:]) if value[0] == 1 else value[5:]


def everything(redis: RedisServer) -> bytes:
    """Give all that Redis holds: each database's names and values, dumped, decompressed, saved to disk."""
    with client(redis) as asking:
        # Or it would compress by itself what it dumps and saves, and a search would find nothing in it.
        asking.config_set("rdbcompression", "no")
        asking.save()
        found = [Path(asking.config_get("dir")["dir"], "dump.rdb").read_bytes()]
        databases = [int(name.removeprefix("db")) for name in asking.info("keyspace")]
    for database in databases:
        with Redis(host=HOST, port=redis.port, db=database) as asking:
            for name in asking.scan_iter():
                value, dumped = asking.get(name), asking.dump(name)
                assert isinstance(value, bytes)
                assert isinstance(dumped, bytes)
                found += [name, value, dumped, plain(value), repr(read(value)).encode()]
    return b"\n".join(found)


CREDENTIALS = {
    "Authorization": "Bearer canary-of-a-client",
    "X_API_Key": "canary-of-a-key",
    "Cookie": "session=canary-of-a-session",
    "Proxy_Authorization": "Basic canary-of-a-proxy",
}
INTERNAL_TOKEN = "canary-of-the-internal-token"


def test_nothing_in_redis_is_a_secret(redis: RedisServer) -> None:
    with (
        upstreams(1, cache_control=LONG_FRESH) as instances,
        gateway(instances, REDIS_URL=redis.url, INTERNAL_TOKEN=INTERNAL_TOKEN) as server,
    ):
        for number in range(TARGETS):
            request(server.port, tag(number), **CREDENTIALS)
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
        assert b"tag" not in name
    for secret in (b"canary", b"authorization", b"cookie"):
        assert secret not in everything(redis).lower()


OPEN, DECRYPTED = b"in-plain-sight", b"canary-of-a-securestring"
# By parameter: what its answer says of being kept. A plain value is in all but the first one, and in what is
# asked for with decrypt=true, whose answer says wrongly that it may be kept.
SAYS = {"open": "max-age=60", "secret": "no-store, max-age=60", "own": "private, max-age=60", "silent": ""}


def secretive(asked: list[bytes]) -> Behaviour:
    """Answer by what is asked for, with more than is left as it is; note the targets."""

    def behave(peer: socket.socket, _: threading.Event) -> None:
        while head := read_head(peer):
            target = head.split(b" ")[1]
            if target != b"/health":
                asked.append(target)
            name = next((each for each in SAYS if b"name=" + each.encode() in target), "secret")
            value, says = OPEN if name == "open" else DECRYPTED, SAYS[name]
            if b"decrypt=true" in target:
                value, says = DECRYPTED, "max-age=60"
            start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Service-Version: 9.9.9\r\n"
            start += f"Cache-Control: {says}\r\n".encode() if says else b""
            peer.sendall(body(b'{"success":true,"data":{"Value":"%s"}}' % (value * 100), start))

    return behave


def test_a_plain_value_is_not_in_redis_whatever_is_asked_and_answered(redis: RedisServer) -> None:
    asked: list[bytes] = []
    with (
        stand_in(secretive(asked)) as port,
        gateway([f"http://{HOST}:{port}"], REDIS_URL=redis.url, INTERNAL_TOKEN=INTERNAL_TOKEN) as server,
    ):
        kept(server, "/api/parameters?name=open")
        for name in SAYS:
            for cache_control in ("max-age=60", "no-cache"):
                target = f"/api/parameters?name={name}"
                answer = request(server.port, target, Cache_Control=cache_control, **CREDENTIALS)

                assert answer.status == 200
                assert (DECRYPTED if name != "open" else OPEN) in answer.body
                if name != "open":
                    assert "stored" not in shown(answer)
                    assert "hit" not in shown(answer)

        asked.clear()
        for target in ("/api/parameters?name=open&decrypt=true", "/api/parameters/list?decrypt=true"):
            refused = request(server.port, target, **CREDENTIALS)
            assert (refused.status, refused.json.get("code")) == (403, "forbidden")
        assert asked == []

    all_of_it = everything(redis)
    # What may be kept is, compressed, and is found: so would be what may not.
    assert OPEN * 100 in all_of_it
    assert client(redis).dbsize() == 1
    assert len(client(redis).get(next(client(redis).scan_iter()))) < 400
    for secret in (DECRYPTED, b"canary", b"authorization", b"cookie"):
        assert secret not in all_of_it.lower()


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


def test_a_redis_behind_a_socket_of_the_machine_is_used_and_missed_like_any(redis: RedisServer) -> None:
    with (
        upstreams(1, cache_control=LONG_FRESH) as instances,
        gateway(instances, REDIS_URL=redis.unix_url, LOG_LEVEL="info") as server,
    ):
        kept(server, tag(1))
        assert "hit" in shown(request(server.port, tag(1)))
        assert client(redis).dbsize() == 1

        redis.kill()
        assert request(server.port, tag(1)).status == 200
        redis.start()
        kept(server, tag(1))
        assert client(redis).dbsize() == 1
        away, back = sounds(server)
        assert "redis.sock is away: ConnectionError" in away
        assert "redis.sock is back" in back


def with_tls(redis: RedisServer, folder: Path) -> list[str]:
    """Give the arguments of a Redis with TLS that wants a certificate too; skip where it knows none."""
    if not client(redis).config_get("tls-port"):
        reason = "this redis-server was built without TLS"
        say(f"skipped: {reason}")
        pytest.skip(reason)
    certificates(folder)
    files = {"ca-cert-file": "ca.pem", "cert-file": "server.pem", "key-file": "server.key"}
    arguments = ["--tls-auth-clients", "yes"]
    for option, name in files.items():
        arguments += [f"--tls-{option}", str(folder / name)]
    return arguments


def test_a_redis_with_tls_is_used_and_missed_like_any(redis: RedisServer, tmp_path: Path) -> None:
    port, arguments = free_port(), with_tls(redis, tmp_path)
    seconds = per_form(3, 30)
    own = f"ssl_certfile={tmp_path}/client.pem&ssl_keyfile={tmp_path}/client.key"
    url = f"rediss://{HOST}:{port}/0?ssl_ca_certs={tmp_path}/ca.pem&{own}"
    with (
        redis_server("--tls-port", str(port), *arguments) as secured,
        upstreams(1, cache_control=FRESH) as instances,
        gateway(instances, REDIS_URL=url, LOG_LEVEL="info") as server,
    ):
        run(server, 1)

        def late() -> list[str]:
            before = run(server, seconds)
            assert client(secured).dbsize() == TARGETS
            secured.kill()
            # All threads connect in the same moment, with a handshake each.
            back = run(server, seconds, at(1, secured.begin))
            # On a busy machine some of the handshakes are too slow, and it goes away once more.
            kept(server, tag(1))
            assert sounds(server)[-1].endswith("is back")
            say(figures("TLS, before", before))
            say(figures("TLS, killed and back", back))
            say(f"{sounds(server)}")
            return ["back"] if slower(back, before) else []

        each_time(late)


@pytest.mark.parametrize(
    ("host", "option"),
    [
        (HOST, "ssl_ca_certs={0}/other.pem&ssl_certfile={0}/client.pem&ssl_keyfile={0}/client.key"),
        (HOST, "ssl_certfile={0}/client.pem&ssl_keyfile={0}/client.key"),
        (HOST, "ssl_ca_certs={0}/none.pem"),
        ("localhost", "ssl_ca_certs={0}/ca.pem&ssl_certfile={0}/client.pem&ssl_keyfile={0}/client.key"),
        (HOST, "ssl_ca_certs={0}/ca.pem"),
    ],
    ids=["another's", "the system's", "no such file", "another name", "no certificate"],
)
def test_a_redis_that_cannot_be_trusted_is_a_redis_that_is_away(
    redis: RedisServer, tmp_path: Path, host: str, option: str
) -> None:
    port, arguments = free_port(), with_tls(redis, tmp_path)
    with (
        redis_server("--tls-port", str(port), *arguments) as secured,
        upstreams(1, cache_control=LONG_FRESH) as instances,
        gateway(instances, REDIS_URL=f"rediss://{host}:{port}/0?{option.format(tmp_path)}") as server,
    ):
        found = [request(server.port, tag(1)) for _ in range(3)]

        assert [answer.status for answer in found] == [200] * 3
        assert not any("hit" in shown(answer) for answer in found)
        [line] = sounds(server)
        say(line)
        assert f"{host}:{port} is away: " in line
        assert client(secured).dbsize() == 0


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
