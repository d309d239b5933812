"""What it costs to know who calls, and how often: the work of a cached answer, in one process."""

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.test import create_environ

from main_api.access_files import own_tokens
from tests.faults.callers import callers
from tests.faults.support import per_form, say
from tests.main_api.support import Answer, Upstream, app_of, settings

TARGET = "/api/parameters?name=database/host"
KEPT = Answer().with_headers(Cache_Control="max-age=3600", ETag='W/"one"')
# What is promised in microseconds, where a request without limits and authentication takes so many.
PLAIN, KEY, TOKEN = 220, 60, 100
ROUND = 200

Ask = Callable[[], None]


def asking(app: Flask, limited: bool = True, **headers: str) -> Ask:
    """Make what asks ``app`` once, as a server does, and holds it to an answer that was kept."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    app.test_client().get(TARGET, headers=named)
    hit = app.test_client().get(TARGET, headers=named)
    assert hit.headers["Cache-Status"].startswith("main-api; hit")
    assert ("RateLimit" in hit.headers) is limited
    assert hit.headers["Cache-Control"].startswith("private") is bool(headers)
    environ = create_environ(TARGET, headers=named)
    environ["REMOTE_ADDR"] = "192.0.2.1"
    statuses: list[str] = []

    def start_response(status: str, *_: object) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda _: None

    def ask() -> None:
        answer: Any = app(dict(environ), start_response)
        for _ in answer:
            pass
        answer.close()
        assert statuses.pop() == "200 OK"

    return ask


def work(ask: Ask) -> float:
    """Give the microseconds of CPU that one answer took."""
    begun = time.thread_time()
    for _ in range(ROUND):
        ask()
    return (time.thread_time() - begun) / ROUND * 1e6


def test_a_key_and_a_token_that_was_seen_cost_what_was_promised(tmp_path: Path) -> None:
    people = callers(tmp_path / "accounts.yaml", "key")
    limits = {"RATE_LIMIT_ENABLED": "true", "RATE_LIMIT": "1000000000 per hour"}
    guarded = people.environment(**limits)
    tokens = own_tokens(settings(**guarded))
    assert tokens is not None
    bearer, _ = tokens.issue("u_ann", "all")
    app = app_of(Upstream(KEPT), **guarded)
    ways = {
        "plain": asking(app_of(Upstream(KEPT)), limited=False),
        "limits": asking(app_of(Upstream(KEPT), **limits)),
        "limits and a key": asking(app, X_API_Key=people.keys["key"].text),
        "limits and a token": asking(app, Authorization=f"Bearer {bearer}"),
    }
    for ask in ways.values():
        work(ask)
    gc.collect()
    # In turns, so that a busy machine is so for all.
    rounds = [{name: work(ask) for name, ask in ways.items()} for _ in range(per_form(30, 200))]

    plain = statistics.median(each["plain"] for each in rounds)
    # Of each round, for what is near in time is alike in all else.
    added = {name: statistics.median(each[name] - each["plain"] for each in rounds) for name in ways}
    figures = ", ".join(f"{more:+.0f} us with {name}" for name, more in added.items() if name != "plain")
    say(f"{plain:.0f} us plain, {figures}")
    assert added["limits and a key"] / plain <= KEY / PLAIN
    assert added["limits and a token"] / plain <= TOKEN / PLAIN
