"""More than there is room for, upstreams that hang, and an AWS that does."""

import subprocess
import sys
import time

from tests.end_to_end import stand_in
from tests.end_to_end.processes import ROOT, Server, free_port, quick, request, servers
from tests.faults import load
from tests.faults.instances import upstreams
from tests.faults.support import READ, gateway, metric, per_form, say, tag

NO_BREAKER = {"BREAKER_FAILURES_IN_A_ROW": "100000", "BREAKER_MINIMUM_CALLS": "100000"}


def test_liveness_answers_while_every_upstream_hangs_and_clients_keep_asking() -> None:
    with upstreams(3) as instances, gateway(instances, **NO_BREAKER) as server:
        for each in instances:
            each.pause()
        command = ["--port", str(server.port), "--target", f"{READ}{{}}", "--connections", "200"]
        # In a process of its own: what is measured here must not wait for the generator's turn.
        asking = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.load", *command, "--count", "1000000", "--seconds", "20"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            time.sleep(1)
            probes: list[float] = []
            full = 0.0
            while len(probes) < 100 and asking.poll() is None:
                probe = quick(lambda: request(server.port, "/api/health"), 0.25)
                assert probe.status == 200
                probes.append(probe.seconds)
                if len(probes) == 50:
                    full = metric(server, "admission_in_service")
                time.sleep(0.1)
            told, _ = asking.communicate(timeout=60)
        finally:
            asking.kill()
            asking.wait()

        slowest = " ".join(f"{each * 1000:.0f}" for each in sorted(probes)[-5:])
        say(f"{len(probes)} probes, the slowest ones {slowest} ms; the clients: {told}")
        assert len(probes) >= 90
        assert full == 16
        assert max(probes) < 0.25


def test_three_times_the_capacity_costs_hardly_any_of_it_and_is_soon_forgotten() -> None:
    seconds = per_form(20, 60)
    with upstreams(2, delay=0.1) as instances, gateway(instances, GUNICORN_THREADS="8") as server:
        peak = load.closed(server.port, tag, 8, 10**9, seconds=5).rate()

        offered = load.open_loop(server.port, tag, 3 * peak, seconds, 400)

        accepted = offered.statuses[200] / offered.seconds
        say(f"peak {peak:.0f} a second, accepted {accepted:.0f} of {3 * peak:.0f}; {offered.table()}")
        assert set(offered.statuses) == {200, 503}
        assert set(offered.codes) == {"overloaded"}
        assert (offered.wrong, offered.broken, offered.unsent) == ([], {}, 0)
        assert accepted >= 0.9 * peak
        assert metric(server, "admission_refused_total") == offered.statuses[503]

        after = load.open_loop(server.port, tag, peak / 2, 5, 100)
        say(f"afterwards at half the peak: {dict(after.statuses)}, {after.timeline}")
        assert after.timeline[4] >= 0.9 * peak / 2
        assert after.percentile(200, 99) < 2
        last = load.open_loop(server.port, tag, peak / 2, 2, 100)
        assert set(last.statuses) == {200}
        assert metric(server, "admission_in_service") == metric(server, "admission_waiting") == 0


def test_a_full_bulkhead_refuses_at_once_and_leaves_the_other_slots_alone() -> None:
    with upstreams(1, delay=0.2) as instances, gateway(instances, BULKHEAD="2") as server:
        result = load.closed(server.port, tag, 6, 60, seconds=30)

        assert set(result.statuses) == {200, 503}
        assert set(result.codes) == {"overloaded"}
        assert metric(server, "admission_refused_total", place="auxiliary-service") == result.statuses[503]
        assert metric(server, "admission_refused_total", place="process") == 0


def breakers_at_rest(server: Server) -> bool:
    return metric(server, "circuit_breaker_changes_total") == 0


def test_a_hanging_aws_leaves_the_breaker_closed() -> None:
    aws = free_port()
    with (
        servers(
            "auxiliary", "gateway", ports={"aws": aws}, REQUEST_TIMEOUT="1", ATTEMPT_TIMEOUT="1"
        ) as running,
        stand_in.stand_in(stand_in.hanging, aws),
    ):
        server = running["gateway"]
        # The first ones wait for the AWS clients to be made, and for eight threads at once.
        load.closed(server.port, lambda number: f"{READ}first-{number}", 8, 8, seconds=30)
        result = load.closed(server.port, tag, 8, 60, seconds=60)

        say(result.table())
        assert dict(result.codes) == {"aws_timeout": 60}
        assert dict(result.statuses) == {504: 60}
        assert result.percentile(504, 100) <= 1.1
        assert breakers_at_rest(server)
        assert metric(server, "upstream_retries_total") == 0
        assert request(server.port, "/api/health/ready").status == 200
