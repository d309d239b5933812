"""What the cache costs: the work of a hit, and the memory of all that is kept."""

import os
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.processes import ROOT, Server, request
from tests.faults import load
from tests.faults.instances import upstreams
from tests.faults.support import READ, gateway, per_form, say

TICKS = os.sysconf("SC_CLK_TCK")
CONSTANT, HIT, MISS = "/", f"{READ}1", "/api/parameters?name=other/"
MEMORY = 64 * 1024**2


def cpu(server: Server) -> float:
    """Give the seconds of CPU that the processes of ``server`` have used, its workers included."""
    assert server.process is not None
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            facts = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(facts[3]) == server.process.pid:
            total += int(facts[11]) + int(facts[12])
    return total / TICKS


def work(server: Server, target: load.Targets, count: int) -> float:
    """Give the seconds of CPU that one answer took."""
    before = cpu(server)
    result = load.closed(server.port, target, 2, count, seconds=120)
    assert dict(result.statuses) == {200: count}
    assert not result.broken
    return (cpu(server) - before) / count


def test_a_hit_is_hardly_more_work_than_a_constant_answer() -> None:
    """The constant answer is the console's page: logged, counted and given its headers as all others."""
    rounds, count = per_form(5, 10), 2_000
    with (
        upstreams(1, cache_control="max-age=600, stale-if-error=300") as instances,
        gateway(instances, LOG_LEVEL="info", GUNICORN_THREADS="4") as server,
    ):
        request(server.port, HIT)
        assert str(request(server.port, HIT).headers["Cache-Status"]).startswith("main-api; hit")
        work(server, HIT, count), work(server, CONSTANT, count)
        # In turns, so that a busy machine is so for both.
        taken = [(work(server, CONSTANT, count), work(server, HIT, count)) for _ in range(rounds)]
        constant, hit = (sum(each) / rounds for each in zip(*taken, strict=True))
        miss = work(server, lambda number: f"{MISS}{number}", count)

        say(
            f"a constant answer {constant * 1e6:.0f} us of CPU; "
            f"a hit {hit / constant:.2f} times, a miss {miss / constant:.2f} times as much"
        )
        assert hit <= 1.5 * constant


def test_after_a_million_different_keys_the_memory_is_what_was_set() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.million", "--bytes", str(MEMORY), "--keys", "1000000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )

    say(ended.stdout.strip())
    grown = int(ended.stdout.split()[0])
    # And that it is used: what would keep nothing would need no memory either.
    assert 0.5 * MEMORY <= grown <= 1.1 * MEMORY
