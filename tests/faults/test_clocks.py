"""A wall clock that jumps an hour either way: every wait and every limit goes by the monotonic one."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.end_to_end.processes import Server, request, until
from tests.faults import load
from tests.faults.instances import Upstream, upstreams
from tests.faults.support import READ, changes, gateway, tag

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

pytestmark = pytest.mark.skipif(
    not LIBRARIES, reason="needs libfaketime (Debian and Ubuntu: apt install faketime)"
)


class WallClock:
    """The wall clock of a process: ``move`` sets it that many hours off."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.move(0)

    def move(self, hours: int) -> None:
        # In one step: half a line would be another time.
        written = self._file.with_suffix(".new")
        written.write_text(f"{hours:+d}h\n")
        written.rename(self._file)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "PYTHONPATH": str(Path(__file__).parent / "moved_clock"),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@contextmanager
def moved_gateway(
    instances: list[Upstream], folder: Path, **settings: str
) -> Iterator[tuple[Server, WallClock]]:
    clock = WallClock(folder / "clock")
    with gateway(instances, **clock.environment, **settings) as server:
        yield server, clock


def hours_off(server: Server) -> int:
    told = request(server.port, f"{READ}1").json["timestamp"]
    off = datetime.fromisoformat(told) - datetime.now(UTC)
    return round(off.total_seconds() / 3600)


@pytest.mark.parametrize("hours", [1, -1])
def test_requests_and_their_answers_go_on(tmp_path: Path, hours: int) -> None:
    with upstreams(2) as instances, moved_gateway(instances, tmp_path) as (server, clock):
        assert hours_off(server) == 0
        moves = iter([hours, 0, -hours])

        def move(seconds: float, at: list[float] = [0.5]) -> None:  # noqa: B006 - kept from call to call
            if seconds >= at[0]:
                at[0] += 0.5
                clock.move(next(moves, hours))

        result = load.closed(server.port, tag, 8, 10**9, seconds=3, each=move)

        assert hours_off(server) == hours
        assert dict(result.statuses) == {200: result.done}
        assert (result.wrong, result.broken) == ([], {})
        assert result.percentile(200, 100) < 2


@pytest.mark.parametrize("hours", [1, -1])
def test_a_deadline_is_kept(tmp_path: Path, hours: int) -> None:
    with (
        upstreams(1, delay=30.0) as instances,
        moved_gateway(instances, tmp_path, REQUEST_TIMEOUT="2", RETRY_ATTEMPTS="1") as (server, clock),
    ):
        timer = threading.Timer(0.5, clock.move, [hours])
        timer.start()
        answer = request(server.port, f"{READ}1")
        timer.join()

        assert (answer.status, answer.json["code"]) == (504, "gateway_timeout")
        # An hour more or less is what would show.
        assert 1.9 <= answer.seconds <= 2.5


@pytest.mark.parametrize("hours", [1, -1])
def test_an_ejection_lasts_its_time_and_ends(tmp_path: Path, hours: int) -> None:
    settings = {"HEALTH_CHECK_INTERVAL": "0", "BREAKER_OPEN_SECONDS": "3"}
    with upstreams(1) as [instance], moved_gateway([instance], tmp_path, **settings) as (server, clock):
        instance.kill()
        until(lambda: request(server.port, f"{READ}1").json.get("code") == "circuit_open", "it is ejected")
        ejected = time.monotonic()
        instance.start()
        clock.move(hours)

        assert request(server.port, f"{READ}1").json["code"] == "circuit_open"
        until(lambda: request(server.port, f"{READ}1").status == 200, "it is let back")
        lasted = time.monotonic() - ejected
        until(
            lambda: request(server.port, f"{READ}1").status == 200 and not half_open(server, instance),
            "closed",
        )

        assert 2.0 <= lasted <= 3.5
        assert changes(server, instance, "closed") == 1


def half_open(server: Server, instance: Upstream) -> bool:
    return changes(server, instance, "closed") == 0
