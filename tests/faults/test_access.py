"""Revocations by real processes that share a Redis: known everywhere at once, and never forgotten."""

import hashlib
import itertools
import shutil
import signal
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.end_to_end.processes import HOST, Answer, Server, request, servers, until
from tests.faults.callers import (
    INTERNAL_TOKEN,
    PASSWORD,
    SECRET,
    Callers,
    callers,
    command,
    login,
    post,
    token,
    under_load,
)
from tests.faults.instances import Upstream, upstreams
from tests.faults.redis_server import RedisServer, redis_server
from tests.faults.support import gateway, per_form, say, tag

BUCKETS = "/api/s3/buckets"
PLAIN = "/api/parameters?name=database/password&decrypt=true"
FRESH = "max-age=1, stale-if-error=300"
RATE = 150.0
# Seconds in which all gateways are to know, and in which they are to know again once Redis is back.
SEEN = 1.0
BACK_WITHIN = 10.0
# Seconds after which a gateway says that it may not know everything: two, and then a busy machine.
TOLD = 3.0

# Each ask by a client of its own: an address is told 429 after 20 credentials that are not good.
addresses = (f"198.51.{number // 250 % 250}.{number % 250 + 1}" for number in itertools.count())


@dataclass
class Gateways:
    """Some gateways that share a Redis: two that let reads pass while it is away, one that lets nothing."""

    redis: RedisServer
    people: Callers
    instances: list[Upstream]
    one: Server
    other: Server
    strict: Server

    def settings(self, **more: str) -> dict[str, str]:
        return settings(self.redis, self.people, **more)

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Load those two while the block lasts; no request of it may fail."""
        with ExitStack() as stack:
            results = [
                stack.enter_context(under_load(server.port, tag, self.people.key("load"), RATE))
                for server in (self.one, self.other)
            ]
            yield
        for result in results:
            assert dict(result.statuses) == {200: result.done}
            assert (result.wrong, result.broken, result.unsent) == ([], {}, 0)
            assert result.done > 0


def settings(redis: RedisServer, people: Callers, **more: str) -> dict[str, str]:
    return people.environment(
        REDIS_URL=redis.url,
        RATE_LIMIT_ENABLED="true",
        RATE_LIMIT="1000000 per hour",
        TRUSTED_PROXIES="127.0.0.0/8",
        **more,
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    people = callers(tmp_path_factory.mktemp("accounts") / "accounts.yaml", "load", "spare", "victim")
    with redis_server() as redis, upstreams(1, cache_control=FRESH) as instances, ExitStack() as stack:
        strict = {"REVOCATION_UNAVAILABLE": "deny"}
        three = [
            stack.enter_context(gateway(instances, **settings(redis, people, **more)))
            for more in ({}, {}, strict)
        ]
        yield Gateways(redis, people, instances, *three)


def ask(server: Server, target: str = BUCKETS, **headers: str) -> Answer:
    return request(server.port, target, X_Forwarded_For=next(addresses), **headers)


def show(server: Server, bearer: str, target: str = BUCKETS) -> tuple[int, str | None]:
    """Show a token; give the status and, of an error, the code."""
    answer = ask(server, target, Authorization=f"Bearer {bearer}")
    return answer.status, answer.json.get("code")


def passes(server: Server, bearer: str, target: str = BUCKETS) -> bool:
    return show(server, bearer, target) == (200, None)


REVOKED = (401, "token_revoked")


def logout(server: Server, bearer: str) -> Answer:
    return post(server.port, "/auth/logout", Authorization=f"Bearer {bearer}")


def logged_out(server: Server, passes_at: tuple[Server, ...] = ()) -> str:
    """Give a token that was good there and has just been revoked; another one if Redis came too late."""

    def revoked() -> str | None:
        bearer = token(server.port)
        until(lambda: all(passes(each, bearer) for each in passes_at), "it is good", BACK_WITHIN)
        answer = logout(server, bearer)
        assert answer.status in (200, 503), answer.body
        return bearer if answer.status == 200 else None

    return str(until(revoked, "a logout", BACK_WITHIN))


def since(begun: float, condition: Callable[[], Any], what: str, seconds: float) -> float:
    """Wait for ``condition``; give the seconds since ``begun`` that it took, ``seconds`` at most."""
    until(condition, what, seconds)
    took = time.monotonic() - begun
    assert took <= seconds, f"{what}: after {took:.2f} s"
    return took


def figures(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms (median), {max(seconds) * 1000:.0f} (most)"


def test_a_logout_at_one_gateway_is_one_at_all_within_a_second(running: Gateways) -> None:
    took = []
    with running.loaded():
        for _ in range(per_form(12, 200)):
            bearer = logged_out(running.one, passes_at=(running.other, running.strict))
            begun = time.monotonic()

            assert show(running.one, bearer) == REVOKED
            for server in (running.other, running.strict):
                gone = lambda server=server, bearer=bearer: not passes(server, bearer)  # noqa: E731
                took.append(since(begun, gone, "the others refuse it", SEEN))
                assert show(server, bearer) == REVOKED
    say(f"a logout is seen by the others after {figures(took)}")


@pytest.fixture
def operator(running: Gateways, tmp_path: Path) -> dict[str, str]:
    """An operator's environment, with a copy of the file that no gateway reads: only Redis can tell them."""
    copy = tmp_path / "accounts.yaml"
    shutil.copy(running.people.path, copy)
    # The one that the tests' gateways have.
    return {"ACCOUNTS_FILE": str(copy), "REDIS_URL": running.redis.url, "APP_ENV": "development"}


def test_what_an_operator_takes_back_is_so_at_all_gateways_within_a_second(
    running: Gateways, operator: dict[str, str]
) -> None:
    everywhere = (running.one, running.other, running.strict)
    eve, bob = token(running.one.port, "eve"), token(running.other.port, "bob")
    key = {"X_API_Key": running.people.keys["victim"].text}
    assert all(passes(server, each) for server in everywhere for each in (eve, bob))
    assert all(ask(server, **key).status == 200 for server in everywhere)
    took = []

    with running.loaded():
        for name, gone in (
            ("eve@example.com", lambda: not any(passes(server, eve) for server in everywhere)),
            ("k_victim", lambda: all(ask(server, **key).status == 401 for server in everywhere)),
        ):
            ended = command("revoke", name, **operator)
            begun = time.monotonic()
            assert (ended.returncode, ended.stderr) == (0, "all gateways know\n")
            took.append(since(begun, gone, f"{name} is refused", SEEN))

        assert {show(server, eve) for server in everywhere} == {REVOKED}
        assert {ask(server, **key).json["code"] for server in everywhere} == {"token_revoked"}
        assert all(passes(server, bob) for server in everywhere)
        # Who was given a token before gets another one by a login.
        assert all(passes(server, token(running.other.port, "eve")) for server in everywhere)

        ended = command("disable", "bob@example.com", **operator)
        begun = time.monotonic()
        assert (ended.returncode, ended.stderr) == (0, "all gateways know\n")
        gone = lambda: not any(passes(server, bob) for server in everywhere)  # noqa: E731
        took.append(since(begun, gone, "a disabled user is refused", SEEN))
    say(f"what an operator takes back is seen by all {figures(took)} after the command has ended")


def test_an_operator_is_told_whom_redis_could_not_tell(running: Gateways, operator: dict[str, str]) -> None:
    written = Path(operator["ACCOUNTS_FILE"])
    running.redis.kill()
    try:
        ended = command("revoke", "k_spare", **operator)
        assert (ended.returncode, ended.stdout) == (1, "revoked key k_spare\n")
        assert "the file is written, but Redis is away" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert written.read_text().count("disabled: true") == 1

        # It is patient: what comes back soon is told.
        coming = threading.Timer(1.5, running.redis.begin)
        coming.start()
        ended = command("revoke", "k_spare", **operator)
        coming.join()
        assert ended.returncode == 0
        assert ended.stderr.endswith("all gateways know\n")
    finally:
        if not running.redis.running:
            running.redis.start()
    spare = {"X_API_Key": running.people.keys["spare"].text}
    until(lambda: ask(running.other, **spare).status == 401, "the key is refused", BACK_WITHIN)

    alone = {name: value for name, value in operator.items() if name != "REDIS_URL"}
    ended = command("revoke", "k_spare", **alone)
    assert (ended.returncode, ended.stderr) == (0, "gateways know once they read the file, within 5 s\n")
    ended = command("revoke", "k_load", **{**operator, "REDIS_URL": "redys://:canary@nowhere"})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "REDIS_URL" in ended.stderr
    assert "canary" not in ended.stderr
    # Nothing is taken back by who could not be understood.
    assert written.read_text().count("disabled: true") == 1


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP], ids=lambda each: each.name
)
def test_while_redis_is_away_what_was_revoked_stays_so(running: Gateways, signum: signal.Signals) -> None:
    one, other, strict, redis = running.one, running.other, running.strict, running.redis
    good, late = token(one.port), token(one.port)
    until(lambda: passes(strict, good), "all know that nothing is missing", BACK_WITHIN)
    gone = logged_out(one)
    until(lambda: all(show(each, gone) == REVOKED for each in (other, strict)), "all know", SEEN)
    assert passes(one, good, PLAIN)

    with running.loaded():
        redis.send(signum)
        away = time.monotonic()
        denied = since(away, lambda: ask_status(strict, good) == 503, "nobody passes the strict one", TOLD)
        hidden = since(away, lambda: ask_status(one, good, PLAIN) == 503, "nothing is decrypted", TOLD + 0.5)
        refused = ask(strict, Authorization=f"Bearer {good}")
        assert (refused.json["code"], refused.headers["Retry-After"]) == ("upstream_unavailable", "1")
        # A bad credential is none, whatever is known.
        assert ask(strict, Authorization="Bearer nonsense").status == 401
        for server in (one, other, strict):
            assert show(server, gone) == REVOKED
        assert passes(one, good)
        assert passes(other, good)
        assert login(one.port).status == 503

        told = logout(one, late)
        assert (told.status, told.json["code"]) == (503, "upstream_unavailable")
        assert show(one, late) == REVOKED
        assert passes(other, late)

        (redis.cont if signum == signal.SIGSTOP else redis.begin)()
        back = time.monotonic()
        healed = since(back, lambda: passes(strict, good), "the strict one lets pass", BACK_WITHIN)
        shown = since(back, lambda: passes(one, good, PLAIN), "decryption", BACK_WITHIN)
        learnt = since(back, lambda: show(other, late) == REVOKED, "a logout of meanwhile", BACK_WITHIN)
        logins = since(back, lambda: login(one.port).status == 200, "logins", BACK_WITHIN)
        for server in (one, other, strict):
            assert show(server, gone) == REVOKED
    say(
        f"{signum.name}: denied after {denied:.2f} s, decryption after {hidden:.2f}; with Redis back it takes"
    )
    say(f"{healed:.2f} s to pass, {shown:.2f} to decrypt, {learnt:.2f} to learn, {logins:.2f} to log in")


def ask_status(server: Server, bearer: str, target: str = BUCKETS) -> int:
    return show(server, bearer, target)[0]


def flushed(redis: RedisServer) -> None:
    with Redis(host=HOST, port=redis.port) as asking:
        asking.flushall()


def restarted(redis: RedisServer) -> None:
    redis.stop()
    redis.start()


@pytest.mark.parametrize("lose", [flushed, restarted], ids=["flushed", "restarted"])
def test_a_gateway_that_starts_after_redis_has_lost_everything_learns_from_the_others(
    running: Gateways, operator: dict[str, str], lose: Callable[[RedisServer], None]
) -> None:
    everywhere = (running.one, running.other, running.strict)
    good, taken, out = token(running.one.port), token(running.one.port, "eve"), logged_out(running.one)
    # Whoever has revoked this one has ended since, and cannot do it again.
    assert command("revoke", "eve@example.com", **operator).returncode == 0

    def known(*servers: Server) -> bool:
        return all(show(server, each) == REVOKED for server in servers for each in (out, taken))

    until(lambda: known(*everywhere), "all know", SEEN)
    with running.loaded():
        lose(running.redis)
        begun = time.monotonic()
        with gateway(running.instances, **running.settings()) as late:
            until(lambda: known(late), "the new one knows", BACK_WITHIN)
            took = time.monotonic() - begun
            assert passes(late, good)
            assert known(*everywhere)
    say(f"a gateway that has begun since refuses it {took:.2f} s after Redis had lost it")


# What is in Redis.


def everything(redis: RedisServer) -> bytes:
    """Give all that Redis holds: names, values of every kind, dumped, decompressed, and as saved to disk."""
    with Redis(host=HOST, port=redis.port) as asking:
        # Or it would compress by itself what it dumps and saves, and a search would find nothing in it.
        asking.config_set("rdbcompression", "no")
        asking.save()
        found = [Path(str(asking.config_get("dir")["dir"]), "dump.rdb").read_bytes()]
        assert set(asking.info("keyspace")) == {"db0"}
        for name in asking.scan_iter():
            dumped = asking.dump(name)
            assert isinstance(dumped, bytes)
            found += [name, dumped, *values(asking, name)]
    return b"\n".join(found)


def values(asking: Redis, name: bytes) -> list[bytes]:
    kind = asking.type(name)
    if kind == b"hash":
        return [part for pair in dict(asking.hgetall(name)).items() for part in pair]
    if kind == b"stream":
        return [value for _, fields in asking.xrange(name) for pair in fields.items() for value in pair]
    assert kind == b"string"
    value = asking.get(name)
    assert isinstance(value, bytes)
    # Of an answer that is kept, all but the first five bytes may be compressed.
    return [value, zlib.decompress(value[5:]) if b":cache:" in name and value[0] == 1 else value]


PLAIN_VALUE = "demonstration-database-password"
READ = "/api/parameters?name=database/host"


def test_nothing_in_redis_is_a_secret_after_logins_keys_and_decryptions(tmp_path: Path) -> None:
    people = callers(tmp_path / "accounts.yaml", "key", "gone", plans={"plan": "1000 per hour"})
    secrets = [PASSWORD, SECRET, INTERNAL_TOKEN, PLAIN_VALUE, *(key.text for key in people.keys.values())]
    with (
        redis_server() as redis,
        servers(
            "aws",
            "auxiliary",
            "gateway",
            **settings(
                redis, people, ALLOW_DECRYPTION="true", PARAMETERS_MAX_AGE="600", BUCKETS_MAX_AGE="600"
            ),
        ) as running,
    ):
        server = running["gateway"]
        ann, bob = token(server.port), token(server.port, "bob")
        secrets += [part for each in (ann, bob) for part in (each, *each.split(".")[1:])]
        shown = [
            {"Authorization": f"Bearer {ann}"},
            {"Authorization": f"Bearer {bob}"},
            *({"X_API_Key": key.text} for key in people.keys.values()),
            *({"Authorization": f"ApiKey {key.text}"} for key in people.keys.values()),
        ]
        until(lambda: ask(server, READ, **shown[0]).status == 200, "the pair is ready")
        for headers in shown:
            for target in (BUCKETS, READ, "/api/parameters/list"):
                assert ask(server, target, **headers).status == 200
            decrypted = ask(server, PLAIN, **headers)
            assert decrypted.json["data"]["data"]["value"] == PLAIN_VALUE
            until(lambda headers=headers: kept(ask(server, READ, **headers)), "an answer is kept")
        # What is wrong may be nearly right.
        for wrong in (f"Bearer {ann}x", f"Bearer {SECRET}", f"Basic {PASSWORD}"):
            assert ask(server, Authorization=wrong).status == 401
        assert post(server.port, "/auth/login", {"email": PASSWORD, "password": PASSWORD}).status == 401
        assert logout(server, bob).status == 200
        environment = {"ACCOUNTS_FILE": str(people.path), "REDIS_URL": redis.url, "APP_ENV": "development"}
        for name in ("k_gone", "eve@example.com"):
            assert command("revoke", name, **environment).returncode == 0

        all_of_it = everything(redis)
        log = "\n".join(each.log() for each in running.values() if each.name != "aws")

    # It is looked into: what may be there is found, a digest in the place of what may not.
    revoked = hashlib.sha256(bob.rpartition(".")[0].encode()).hexdigest()
    for found in ("k_gone", "u_eve", revoked, "db.internal.example", "key:k_plan", ":limits:", ":cache:"):
        assert found.encode() in all_of_it, found
    for secret in secrets:
        assert secret.encode() not in all_of_it, secret
        assert secret not in log, secret
    assert b"@example.com" not in all_of_it
    say(f"{len(all_of_it)} bytes of Redis hold none of {len(secrets)} secrets")


def kept(answer: Answer) -> bool:
    return any(word in str(answer.headers["Cache-Status"]) for word in ("stored", "hit"))
