"""Many who ask the same while the one that is asked for them dies."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.end_to_end.processes import request, until
from tests.faults.instances import attempts, upstreams
from tests.faults.support import READ, gateway, metric, say

ASKERS = 50


def test_fifty_have_their_answer_by_two_calls_when_the_first_is_killed(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with (
        upstreams(2, journal=journal, delay=1.5, cache_control="max-age=0, stale-if-error=300") as instances,
        # With room for all, and no health check that would be in the journal's way.
        gateway(instances, GUNICORN_THREADS=str(ASKERS), HEALTH_CHECK_INTERVAL="0") as server,
        ThreadPoolExecutor(ASKERS) as threads,
    ):
        asking = [
            threads.submit(request, server.port, f"{READ}same", X_Request_ID=f"asker-{number}")
            for number in range(ASKERS)
        ]
        until(lambda: attempts(journal).total() == 1, "one is asking")
        until(lambda: metric(server, "admission_in_service") == ASKERS, "all are waiting")
        asked = next(each for each in instances if metric(server, "upstream_in_flight", instance=each.url))
        asked.kill()
        answers = [each.result(20) for each in asking]

        calls = attempts(journal).total()
        collapsed = sum("collapsed" in answer.headers.get("Cache-Status", "") for answer in answers)
        say(f"{ASKERS} answers, {collapsed} of them shared, by {calls} calls")
        assert [answer.status for answer in answers] == [200] * ASKERS
        assert [answer.headers["X-Request-ID"] for answer in answers] == [f"asker-{n}" for n in range(ASKERS)]
        assert calls == 2
