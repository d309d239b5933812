"""Several worker processes: what they count is one, and one that dies is replaced and forgotten."""

import os
import re
import signal

from tests.end_to_end.processes import Server, request, servers, until


def counted(gateway: Server) -> int:
    """Read how many 404s all workers have answered together."""
    metrics = request(gateway.port, "/metrics").body.decode()
    found = re.search(
        r'http_requests_total\{app="main-api",method="GET",route="<unmatched>",status_code="404"\} (\S+)',
        metrics,
    )
    return int(float(found[1])) if found else 0


def shown(gateway: Server) -> set[int]:
    """Read which workers have process figures."""
    metrics = request(gateway.port, "/metrics").body.decode()
    return {int(pid) for pid in re.findall(r'process_resident_memory_bytes\{pid="(\d+)"\}', metrics)}


def test_two_workers_count_as_one_and_a_dead_one_is_replaced() -> None:
    with servers("gateway", WEB_CONCURRENCY="2") as running:
        gateway = running["gateway"]
        workers = until(lambda: len(found := gateway.workers()) == 2 and found, "two workers")
        warned = [line["message"] for line in gateway.lines() if line["level"] == "warning"]
        assert len(warned) == 1
        assert "AUTHENTICATION=none" in warned[0]
        for _ in range(40):
            assert request(gateway.port, "/nowhere").status == 404
        assert counted(gateway) == 40
        until(lambda: shown(gateway) == set(workers), "figures of both workers")

        os.kill(workers[0], signal.SIGKILL)
        replaced = until(
            lambda: len(found := gateway.workers()) == 2 and workers[0] not in found and found, "a new worker"
        )
        until(lambda: shown(gateway) == set(replaced), "figures of the new worker, none of the dead one")
        assert counted(gateway) == 40
