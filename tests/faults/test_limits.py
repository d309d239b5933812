"""Limits by real processes that share a Redis: exact, deaf to what clients forge, and there without it."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from tests.end_to_end.processes import HOST, Answer, Server, free_port, request, until
from tests.faults import load
from tests.faults.callers import Callers, callers, login, under_load
from tests.faults.instances import upstreams
from tests.faults.redis_server import RedisServer, redis_server
from tests.faults.slow_redis import Slowness, slow_redis
from tests.faults.support import gateway, per_form, say
from tests.faults.test_redis import FRESH, at, each_time, figures, of_target, slower, tag

BUCKETS = "/api/s3/buckets"
LIMIT = 40
AT_ONCE = 32
GUARD = "main_api.state.redis_guard"
ROUNDS = 3


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def client(redis: RedisServer) -> Redis:
    return Redis(host=HOST, port=redis.port)


def told(servers: list[Server], what: str) -> int:
    """How often their workers have found Redis ``away`` or ``back``."""
    lines = [line for server in servers for line in server.lines() if line["logger"] == GUARD]
    return sum(f" is {what}" in line["message"] for line in lines)


def settle(servers: list[Server], headers: dict[str, str]) -> None:
    """Ask until no worker counts by itself: each has its connections, and for none is Redis away."""

    def settled() -> bool:
        at_once(servers, AT_ONCE, headers)
        return told(servers, "away") == told(servers, "back")

    until(settled, "Redis is there for all", 10)


def at_once(servers: list[Server], count: int, headers: dict[str, str]) -> Counter[int]:
    """Ask all of them at the same time, ``count`` times in all; every answer must be there."""
    together = threading.Barrier(len(servers))

    def ask(server: Server) -> load.Result:
        together.wait(20)
        return load.closed(
            server.port, BUCKETS, AT_ONCE // len(servers), count // len(servers), 60, headers=headers
        )

    with ThreadPoolExecutor(len(servers)) as threads:
        results = list(threads.map(ask, servers))
    assert [(result.wrong, result.broken) for result in results] == [([], {})] * len(servers)
    return sum((result.statuses for result in results), Counter())


@pytest.mark.parametrize("who", ["address", "key", "plan"])
@pytest.mark.parametrize("workers", [(4,), (2, 2)], ids=["4 workers", "two gateways of 2 workers"])
def test_of_ten_times_the_limit_at_once_exactly_the_limit_passes(
    redis: RedisServer, tmp_path: Path, workers: tuple[int, ...], who: str
) -> None:
    people = callers(tmp_path / "accounts.yaml", "key", plans={"plan": f"{LIMIT} per hour"})
    settings = {} if who == "address" else people.environment()
    # Who has a plan is not held to what others are.
    settings["RATE_LIMIT"] = "1 per hour" if who == "plan" else f"{LIMIT} per hour"
    headers = {} if who == "address" else people.key(who)
    with ExitStack() as stack:
        instances = stack.enter_context(upstreams(1, cache_control=FRESH))
        servers = [
            stack.enter_context(
                gateway(
                    instances,
                    REDIS_URL=redis.url,
                    RATE_LIMIT_ENABLED="true",
                    WEB_CONCURRENCY=str(count),
                    RATE_LIMIT_REPLICAS=str(len(workers)),
                    LOG_LEVEL="info",
                    **settings,
                )
            )
            for count in workers
        ]

        def exact() -> bool:
            settle(servers, headers)
            with client(redis) as asking:
                asking.flushall()
            before = told(servers, "away")
            statuses = at_once(servers, 10 * LIMIT, headers)
            gone = told(servers, "away") - before
            say(f"{dict(statuses)}; for {gone} workers Redis was too late")
            assert set(statuses) <= {200, 429}
            # What a busy machine comes too late for, each worker counts by itself.
            assert gone or statuses == {200: LIMIT, 429: 9 * LIMIT}
            return not gone

        for _ in range(per_form(ROUNDS, 10 * ROUNDS)):
            until(exact, "Redis was there all the time", 20)


# Whose address counts.

FORWARDING = (
    "X-Forwarded-For",
    "Forwarded",
    "X-Real-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "Client-IP",
    "X-Original-Forwarded-For",
    "Via",
)


def with_fields(target: str, fields: list[tuple[str, str]]) -> str:
    """Give a target that brings header fields along: the load writes it as it is into the request line."""
    lines = "".join(f"\r\n{name}: {value}" for name, value in fields)
    return f"{target} HTTP/1.1{lines}\r\nX-Rest:" if fields else target


def address(chance: random.Random) -> str:
    """Write an address as proxies and liars do."""
    four = ".".join(str(chance.randrange(256)) for _ in range(4))
    six = ":".join(f"{chance.randrange(65_536):x}" for _ in range(8))
    port = chance.randrange(65_536)
    nonsense = (
        "",
        "unknown",
        "_hidden",
        "127.0.0.1",
        "::1",
        "999.1.1.1",
        "1.2.3.4.5",
        "a b",
        "\xe9",
        "%00",
        "::ffff:" + four,
    )
    return chance.choice(
        (four, six, f"{four}:{port}", f"[{six}]:{port}", f"[{six}]", chance.choice(nonsense))
    )


def forged(chance: random.Random) -> list[tuple[str, str]]:
    """Make some forwarding fields, repeated ones among them."""
    fields = []
    for name in chance.choices(FORWARDING, k=chance.randint(1, 4)):
        addresses = [address(chance) for _ in range(chance.randint(1, 4))]
        if name == "Forwarded":
            value = ", ".join(f'for="{each}";proto=https;by=127.0.0.1' for each in addresses)
        else:
            value = chance.choice((",", ", ", " , ")).join(addresses)
        fields.append((chance.choice((name, name.lower(), name.upper())), value))
    return fields


def test_forged_forwarding_fields_change_nothing_for_an_untrusted_peer() -> None:
    count, limit, chance = per_form(10_000, 100_000), 100, random.Random(7)

    with (
        upstreams(1, cache_control=FRESH) as instances,
        gateway(instances, RATE_LIMIT_ENABLED="true", RATE_LIMIT=f"{limit} per hour") as server,
    ):
        plain = load.closed(server.port, "/api/parameters/list", 8, 3 * limit, 60)
        tricked = load.closed(server.port, lambda _: with_fields(BUCKETS, forged(chance)), 8, count, 120)
        mixed = load.closed(server.port, BUCKETS, 8, limit, 60)

    assert dict(plain.statuses) == {200: limit, 429: 2 * limit}
    assert dict(tricked.statuses) == {200: limit, 429: count - limit}
    assert dict(mixed.statuses) == {429: limit}
    assert (tricked.wrong, tricked.broken) == ([], {})
    say(f"{count} with forged fields: {dict(tricked.statuses)}, {tricked.rate():.0f} a second")


def test_behind_a_trusted_proxy_the_right_most_untrusted_entry_counts() -> None:
    limit, chance = 20, random.Random(11)

    def behind(client: str, proxies: str = "") -> load.Result:
        """Ask more often than it is allowed to, as one client that writes what it likes to the left."""

        def target(_: int) -> str:
            chain = ", ".join([*(address(chance) for _ in range(chance.randint(0, 3))), client])
            others = [each for each in forged(chance) if each[0].lower() != "x-forwarded-for"]
            return with_fields(BUCKETS, [("X-Forwarded-For", chain + proxies), *others])

        return load.closed(server.port, target, 8, 10 * limit, 60)

    with (
        upstreams(1, cache_control=FRESH) as instances,
        gateway(
            instances,
            RATE_LIMIT_ENABLED="true",
            RATE_LIMIT=f"{limit} per hour",
            TRUSTED_PROXIES="127.0.0.0/8",
        ) as server,
    ):
        fresh = {200: limit, 429: 9 * limit}
        for client, proxies, statuses in (
            ("198.51.100.1", "", fresh),
            ("198.51.100.2", ", 127.0.0.9, 127.1.2.3:443", fresh),
            # The same one, with a port, by another way.
            ("198.51.100.1:4711", ", 127.0.0.9", {429: 10 * limit}),
            ("::ffff:198.51.100.2", "", {429: 10 * limit}),
            ("[2001:db8:1:2::a]:80", "", fresh),
            # What one customer has is a /64 at least.
            ("2001:db8:1:2:3:4:5:6", "", {429: 10 * limit}),
            ("2001:db8:1:3::a", "", fresh),
            # What is no address was written by nobody that is known: it is the proxy's own.
            ("nonsense", "", fresh),
            ("unknown", ", 127.0.0.1", {429: 10 * limit}),
        ):
            assert dict(behind(client, proxies).statuses) == statuses, (client, proxies)


# Redis goes, and comes back.

RATE = 300.0
# What a plan allows, and the part of it that each of 2 workers of 2 gateways has while Redis is away.
PLAN, PART = 40, 10
BACK_WITHIN = 10.0
KEYS = [f"plan-{number}" for number in range(40)]
Back = Callable[[], object]


@dataclass
class Guarded:
    """A gateway of two workers that may be one of two, and its callers; each fault has a key of its own."""

    server: Server
    people: Callers
    names: Iterator[str] = field(default_factory=lambda: iter(KEYS))

    def loaded(self, seconds: float, each: Callable[[float], None] | None = None) -> load.Result:
        """Load it as somebody who is hardly limited."""
        headers = self.people.key("load")
        return load.open_loop(
            self.server.port, tag, RATE, seconds, 128, check=of_target, headers=headers, each=each
        )

    def run(self, seconds: float, each: Callable[[float], None] | None = None) -> load.Result:
        """Load it; every answer must be there and be the right one."""
        result = self.loaded(seconds, each)
        assert (dict(result.statuses), dict(result.codes)) == ({200: result.done}, {})
        assert (result.wrong, result.broken, result.unsent) == ([], {}, 0)
        return result

    def ask(self, name: str, count: int = 1) -> list[Answer]:
        """Ask as somebody with a plan."""
        return [
            request(self.server.port, BUCKETS, X_API_Key=self.people.keys[name].text) for _ in range(count)
        ]

    def shared(self, name: str, count: int = 20) -> bool:
        """Whether the next answers are all by the limit of all, and not by a worker's part of it."""
        return all(policy(answer) == PLAN for answer in self.ask(name, count))


def policy(answer: Answer) -> int:
    """How many requests were allowed by what was applied."""
    return int(str(answer.headers["RateLimit-Policy"]).removeprefix('"rate";q=').partition(";")[0])


@contextmanager
def guarded(people: Callers, redis_url: str) -> Iterator[Guarded]:
    with (
        upstreams(1, cache_control=FRESH) as instances,
        gateway(
            instances,
            REDIS_URL=redis_url,
            WEB_CONCURRENCY="2",
            RATE_LIMIT_REPLICAS="2",
            RATE_LIMIT_ENABLED="true",
            **people.environment(RATE_LIMIT="1000000 per hour"),
        ) as server,
    ):
        running = Guarded(server, people)
        # The first answers are slower, with and without Redis; of a busy machine too slow.
        until(lambda: set(running.loaded(1).statuses) == {200}, "it is warm")
        yield running


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    path = tmp_path_factory.mktemp("accounts") / "accounts.yaml"
    return callers(path, "load", plans=dict.fromkeys(KEYS, f"{PLAN} per hour"))


@pytest.fixture(scope="module")
def pair(people: Callers) -> Iterator[tuple[RedisServer, Guarded]]:
    with redis_server() as redis, guarded(people, redis.url) as running:
        yield redis, running


def sent(redis: RedisServer, signum: signal.Signals) -> Back:
    redis.send(signum)
    return redis.cont if signum == signal.SIGSTOP else redis.begin


def read_only(redis: RedisServer) -> Back:
    with client(redis) as asking:
        asking.replicaof(HOST, 1)

    def back() -> None:
        with client(redis) as asking:
            asking.replicaof("NO", "ONE")

    return back


def full(redis: RedisServer) -> Back:
    with client(redis) as asking:
        asking.config_set("maxmemory-policy", "noeviction")
        asking.config_set("maxmemory", "1mb")
        with suppress(OutOfMemoryError):
            for number in range(1000):
                asking.set(f"filler:{number}", bytes(10_000))

    def back() -> None:
        with client(redis) as asking:
            asking.config_set("maxmemory", "0")

    return back


GOING: dict[str, Callable[[RedisServer], Back]] = {
    "stopped": lambda redis: sent(redis, signal.SIGTERM),
    "killed": lambda redis: sent(redis, signal.SIGKILL),
    "paused": lambda redis: sent(redis, signal.SIGSTOP),
    "read-only": read_only,
    "full": full,
}


def alone(running: Guarded, name: str) -> None:
    """Hold a gateway to what it may while Redis is away."""
    answers = running.ask(name, 3 * PLAN)
    assert {policy(answer) for answer in answers} == {PART}
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {200, 429}
    # Each of the two workers has its part; the kernel chooses whom it gives a connection.
    assert PART <= statuses[200] <= 2 * PART
    refused = login(running.server.port)
    assert (refused.status, refused.json["code"]) == (503, "upstream_unavailable")
    assert int(refused.headers["Retry-After"]) == refused.json["retryAfter"] >= 1


def again(running: Guarded, name: str, come_back: Back) -> str:
    """Have Redis come back, under load; give how soon logins and the limit of all were there again."""
    with under_load(running.server.port, tag(0), running.people.key("load"), RATE) as result:
        come_back()
        begun = time.monotonic()
        until(lambda: login(running.server.port).status == 200, "a login", BACK_WITHIN)
        logins = time.monotonic() - begun
        until(lambda: running.shared(name), "the limit of all", BACK_WITHIN)
        limits = time.monotonic() - begun
    assert dict(result.statuses) == {200: result.done}
    return f"logins after {logins:.2f} s, the limit of all after {limits:.2f} s"


@pytest.mark.parametrize("what", GOING)
def test_while_redis_is_gone_each_worker_counts_by_itself_and_nobody_waits(
    pair: tuple[RedisServer, Guarded], what: str
) -> None:
    redis, running = pair

    def late() -> list[str]:
        name = next(running.names)
        until(lambda: running.shared(name), "the limit of all", BACK_WITHIN)
        backs: list[Back] = []
        before = running.run(per_form(2, 10))
        try:
            going = running.run(per_form(3, 20), at(0.5, lambda: backs.append(GOING[what](redis))))
            alone(running, name)
            told = again(running, name, backs.pop())
        finally:
            # Not for the next test to find, whatever this one has found.
            for back in backs:
                back()
        for phase, result in (("before", before), (what, going)):
            say(figures(phase, result))
        say(f"{what}: {told}")
        return [what] if slower(going, before) else []

    each_time(late)


def test_what_is_flushed_all_the_time_is_counted_anew_and_nobody_waits(
    pair: tuple[RedisServer, Guarded],
) -> None:
    redis, running = pair

    def flush(_: float) -> None:
        asking.flushall()
        asking.script_flush()

    def late() -> list[str]:
        name = next(running.names)
        until(lambda: running.shared(name), "the limit of all", BACK_WITHIN)
        before = running.run(per_form(2, 10))
        flushed = running.run(per_form(3, 20), flush)
        assert login(running.server.port).status == 200
        assert running.shared(name)
        assert running.ask(name, PLAN)[-1].status == 429
        flush(0.0)
        assert running.ask(name)[0].status == 200
        for phase, result in (("before", before), ("flushed", flushed)):
            say(figures(phase, result))
        return ["flushed"] if slower(flushed, before) else []

    with client(redis) as asking:
        each_time(late)


def test_a_redis_that_takes_two_seconds_is_as_good_as_none(people: Callers, redis: RedisServer) -> None:
    port, names = free_port(), iter(reversed(KEYS))
    with guarded(people, f"redis://{HOST}:{port}/0") as running:

        def late() -> list[str]:
            name = next(names)
            # With nobody on the port: what a request takes that Redis adds nothing to.
            before = running.run(per_form(2, 10))
            with slow_redis(port, redis.port, Slowness(2.0)):
                slow = running.run(per_form(3, 20))
                alone(running, name)
            with ExitStack() as stack:
                told = again(
                    running, name, lambda: stack.enter_context(slow_redis(port, redis.port, Slowness()))
                )
            for phase, result in (("before", before), ("slow", slow)):
                say(figures(phase, result))
            say(f"slow: {told}")
            return ["slow"] if slower(slow, before) else []

        each_time(late)
