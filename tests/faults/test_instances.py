"""Instances that are killed, stopped, gone or failing, and what clients see of it: nothing, if possible."""

import itertools
import time
from pathlib import Path

import pytest

from tests.end_to_end.processes import Server, request, until
from tests.faults import load
from tests.faults.instances import Upstream, attempts, upstreams
from tests.faults.support import READ, changes, gateway, metric, per_form, say, tag

KILL_EVERY = 2.0
DOWN = 0.5


def own(request_id: str, target: str, body: bytes) -> bool:
    """Whether an answer holds the id of its request, as the upstream that answered it saw it."""
    return b'"id":"%s"' % request_id.encode() in body


class Killer:
    """Kills one instance after the other, each for half a second; to be called with the seconds of a run."""

    def __init__(self, instances: list[Upstream]) -> None:
        self._next = itertools.cycle(instances)
        self._down: Upstream | None = None
        self._at = KILL_EVERY
        self.killed = 0

    def __call__(self, seconds: float) -> None:
        if self._down is None and seconds >= self._at:
            self._down = next(self._next)
            self._down.kill()
            self.killed += 1
        elif self._down is not None and seconds >= self._at + DOWN:
            self._down.begin()
            self._down = None
            self._at += KILL_EVERY


@pytest.mark.parametrize("rotate", [False, True], ids=["always the same", "each in turn"])
def test_no_request_fails_while_instances_are_killed_and_started_again(tmp_path: Path, rotate: bool) -> None:
    count = per_form(20_000, 200_000)
    journal = tmp_path / "journal"
    with upstreams(3, journal=journal) as instances, gateway(instances, GUNICORN_THREADS="32") as server:
        killer = Killer(instances if rotate else instances[:1])

        result = load.closed(server.port, tag, 32, count, seconds=count / 50, check=own, each=killer)

        retries = metric(server, "upstream_retries_total")
        say(f"{killer.killed} kills, {retries:.0f} retries; {result.table()}")
        assert dict(result.statuses) == {200: count}
        assert (result.wrong, result.broken) == ([], {})
        assert killer.killed >= 5
        assert max(attempts(journal).values()) <= 3
        assert retries <= count / 10


def test_a_stopped_instance_is_ejected_and_comes_back_and_nobody_notices() -> None:
    with (
        upstreams(3) as instances,
        gateway(instances, GUNICORN_THREADS="32", ATTEMPT_TIMEOUT="1") as server,
    ):
        stopped = instances[0]
        went_on: list[float] = []

        def stop_and_go(seconds: float) -> None:
            if not went_on and seconds >= 1:
                stopped.pause()
                went_on.append(seconds + 10)
            elif len(went_on) == 1 and seconds >= went_on[0]:
                stopped.cont()
                went_on.append(seconds)

        def back() -> bool:
            return len(went_on) == 2 and changes(server, stopped, "closed") == 1

        result = load.closed(server.port, tag, 16, 10**9, seconds=40, check=own, each=stop_and_go, until=back)

        reasons = [line["message"] for line in server.lines() if "closed -> open" in line["message"]]
        ejections = changes(server, stopped, "open")
        say(f"{ejections} ejections, back {result.seconds - went_on[1]:.1f} s after it went on")
        say(result.table())
        assert dict(result.statuses) == {200: result.done}
        assert (result.wrong, result.broken) == ([], {})
        assert "5 failures in a row" in reasons[0]
        assert stopped.url in reasons[0]
        # Of 5 seconds, and of 10 from when its first calls failed again; there is no second one when the
        # health checks had taken it out before the first was over.
        assert back()
        assert 1 <= ejections <= 2
        assert result.seconds - went_on[1] <= 10.5


def test_without_any_instance_refusals_are_immediate_and_all_heals_by_itself() -> None:
    with upstreams(3) as instances, gateway(instances, GUNICORN_THREADS="16") as server:
        health = load.closed(server.port, "/api/health", 4, 500, seconds=30)
        for each in instances:
            each.kill()
        gone_at = time.monotonic()
        until(lambda: request(server.port, f"{READ}0").json.get("code") == "circuit_open", "all are ejected")

        refused = load.closed(server.port, tag, 4, 500, seconds=30)

        answer = request(server.port, f"{READ}0")
        assert answer.json["retryAfter"] == int(answer.headers["Retry-After"]) >= 1
        assert metric(server, "circuit_breaker_state") == 3 * 2
        asked = metric(server, "upstream_request_duration_seconds_count")
        assert request(server.port, f"{READ}0").status == 503
        ratio = refused.median(503) / health.median()
        say(
            f"refusal {refused.median(503) * 1000:.2f} ms, {ratio:.1f} times a health answer "
            f"({health.median() * 1000:.2f} ms); {refused.codes}"
        )
        assert dict(refused.codes) == {"circuit_open": refused.done}
        # Refusing asks nobody: all that is added is the chain, the error body and its log line.
        assert metric(server, "upstream_request_duration_seconds_count") == asked
        assert refused.median(503) < max(0.010, 4 * health.median())

        while time.monotonic() < gone_at + 10:
            time.sleep(0.1)
        for each in instances:
            each.start()
        back_at = time.monotonic()
        until(lambda: request(server.port, f"{READ}0").status == 200, "it heals")
        healed = time.monotonic() - back_at
        say(f"healed {healed:.1f} s after the instances were back")
        # Twice the open time of five seconds; with the checks that see instances come back, much less.
        assert healed <= 10


@pytest.mark.parametrize(
    ("answer", "settings"),
    [
        pytest.param("503", {}, id="bare 503s"),
        pytest.param(
            "503", {"BREAKER_FAILURES_IN_A_ROW": "100000", "BREAKER_MINIMUM_CALLS": "100000"}, id="no breaker"
        ),
        pytest.param("overloaded", {}, id="overloaded by the contract"),
    ],
)
def test_an_upstream_that_fails_always_is_asked_hardly_more_often(
    tmp_path: Path, answer: str, settings: dict[str, str]
) -> None:
    journal = tmp_path / "journal"
    count = per_form(2_000, 20_000)
    with upstreams(3, journal=journal, answer=answer) as instances, gateway(instances, **settings) as server:
        result = load.closed(server.port, tag, 8, count, seconds=count / 20)

        asked = sum(attempts(journal).values())
        say(f"{asked} upstream calls for {count} requests; {result.codes}")
        assert result.done == count
        assert 200 not in result.statuses
        assert max(attempts(journal).values()) > 1, "there were no retries to be throttled"
        assert asked <= 1.05 * count
        if settings or answer == "overloaded":
            assert asked >= count


def shut(server: Server, instance: Upstream) -> bool:
    return metric(server, "circuit_breaker_state", instance=instance.url) == 2


def test_an_instance_that_times_out_but_passes_its_checks_stays_out_for_its_time() -> None:
    with (
        upstreams(2) as good,
        upstreams(1, delay=2.0) as slow,
        gateway([*good, *slow], ATTEMPT_TIMEOUT="0.5", GUNICORN_THREADS="16") as server,
    ):
        result = load.closed(
            server.port, tag, 4, 10**9, seconds=20, check=own, until=lambda: shut(server, slow[0])
        )
        assert dict(result.statuses) == {200: result.done}
        opened_at = time.monotonic()

        load.closed(server.port, tag, 4, 10**9, seconds=3, check=own)

        assert (changes(server, slow[0], "open"), changes(server, slow[0], "half_open")) == (1, 0)
        assert time.monotonic() - opened_at < 4.5
