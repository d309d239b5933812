"""Instances that come and go in a registry, and registries that fail: no request does."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.processes import Server, request, until
from tests.faults import load
from tests.faults.instances import Upstream, attempts
from tests.faults.registries import REGISTRIES, Registry
from tests.faults.support import READ, gateway, per_form, say, tag

SERVICE = "auxiliary-service"


@pytest.fixture(params=REGISTRIES)
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    with REGISTRIES[request.param]() as running:
        yield running


@pytest.fixture
def some(tmp_path: Path) -> Iterator[list[Upstream]]:
    """Instances that run, each with a journal of its own."""
    made = [Upstream(journal=tmp_path / str(number), delay=0.02) for number in range(8)]
    try:
        for each in made:
            each.start()
        yield made
    finally:
        for each in made:
            each.close()


def own(request_id: str, target: str, body: bytes) -> bool:
    return b'"id":"%s"' % request_id.encode() in body


def shown(server: Server) -> dict[str, Any]:
    """Give what the gateway says of its service."""
    answer = request(server.port, f"/services/{SERVICE}")
    assert answer.status == 200
    facts: dict[str, Any] = answer.json
    return facts


def urls(server: Server) -> set[str]:
    return {each["url"] for each in shown(server)["instances"]}


def calls(instance: Upstream, folder: Path, number: int) -> int:
    return attempts(folder / str(number)).total()


def test_an_instance_serves_a_second_after_it_is_listed_and_not_a_second_after_it_is_not(
    registry: Registry, some: list[Upstream], tmp_path: Path
) -> None:
    first, second = some[:2]
    registry.add(first)
    with gateway([], **registry.environment) as server:
        until(lambda: request(server.port, f"{READ}0").status == 200, "the first serves")

        registry.add(second)
        began = time.monotonic()
        while not calls(second, tmp_path, 1):
            assert request(server.port, f"{READ}{time.monotonic()}").status == 200
            assert time.monotonic() < began + registry.soon
        say(f"serves after {time.monotonic() - began:.2f} s")

        registry.remove(first)
        time.sleep(registry.soon)
        before = calls(first, tmp_path, 0)
        result = load.closed(server.port, tag, 4, 200, seconds=20, check=own)

        assert dict(result.statuses) == {200: 200}
        assert calls(first, tmp_path, 0) == before
        assert urls(server) == {second.url}


def test_nobody_notices_that_one_comes_and_one_goes_every_second(
    registry: Registry, some: list[Upstream], tmp_path: Path
) -> None:
    count = per_form(5_000, 50_000)
    for one in some[:3]:
        registry.add(one)
    listed, waiting = list(range(3)), list(range(3, 8))
    # Who was taken out, and when it had to be out: then it is killed.
    leaving: list[tuple[float, int]] = []
    turns = 0

    def swap(comes: int, goes: int) -> None:
        registry.add(some[comes])
        registry.remove(some[goes])
        leaving.append((time.monotonic() + registry.soon, goes))

    def renew() -> None:
        while leaving and time.monotonic() >= leaving[0][0]:
            number = leaving.pop(0)[1]
            some[number].kill()
            some[number].start()
            waiting.append(number)

    def change(seconds: float) -> None:
        nonlocal turns
        if seconds >= turns + 1 and not busy():
            turns += 1
            comes, goes = waiting.pop(0), listed.pop(0)
            listed.append(comes)
            # In a thread of its own: the load must not wait for the registry.
            tasks.append(changing.submit(swap, comes, goes))
            tasks.append(changing.submit(renew))

    tasks: list[Future[None]] = []

    def busy() -> bool:
        return not all(each.done() for each in tasks) or not waiting

    with (
        gateway([], GUNICORN_THREADS="16", **registry.environment) as server,
        ThreadPoolExecutor(1) as changing,
    ):
        until(lambda: len(urls(server)) == 3, "all three are found")
        result = load.closed(server.port, tag, 8, count, seconds=count / 20, check=own, each=change)
        for each in tasks:
            each.result(10)

        say(f"{turns} came and {turns} went; {result.table()}")
        assert dict(result.statuses) == {200: count}
        assert (result.wrong, result.broken) == ([], {})
        assert turns >= 5
        until(lambda: urls(server) == {some[number].url for number in listed}, "the list is the newest")


def size(server: Server) -> tuple[int, int, int]:
    """Give threads, file descriptors and resident kilobytes of the gateway's worker."""
    worker = shown(server)["worker"]
    status = Path(f"/proc/{worker}/status").read_text()
    numbers = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.split()[1:]}
    descriptors = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    return int(numbers["Threads"]), descriptors, int(numbers["VmRSS"])


# Only Consul has statuses that it gives by mistake; what etcd holds can be anything.
FAULTS = [
    *(("consul", fault) for fault in ("down", "hanging", "500", "429", "garbage", "empty", "a thousand")),
    *(("etcd", fault) for fault in ("down", "hanging", "garbage", "empty", "a thousand")),
    *(("dns", fault) for fault in ("down", "hanging", "empty", "a thousand")),
]


@pytest.mark.parametrize(("registry", "fault"), FAULTS, indirect=["registry"])
def test_a_registry_that_fails_costs_no_request_and_is_found_again(
    registry: Registry, some: list[Upstream], fault: str
) -> None:
    seconds = per_form(10, 60)
    for each in some[:3]:
        registry.add(each)
    with gateway([], HEALTH_CHECK_INTERVAL="1", **registry.environment) as server:
        until(lambda: len(urls(server)) == 3, "all three are found")
        # Until every thread that is made when it is needed has been needed.
        load.closed(server.port, tag, 8, 10**9, seconds=4, check=own)
        before = size(server)
        listed_at = shown(server)["source"]["listedAt"]

        registry.faults[fault]()
        result = load.closed(server.port, tag, 4, 10**9, seconds=seconds, check=own)

        found, after = shown(server), size(server)
        say(f"{fault}: {found['source']['fault']}; threads, descriptors, kB {before} -> {after}")
        assert dict(result.statuses) == {200: result.done}
        assert (result.wrong, result.broken) == ([], {})
        # What is there; a registry that fills up bit by bit adds what no check ever finds.
        there = {each["url"] for each in found["instances"] if each["state"] == "available"}
        assert there == {each.url for each in some[:3]}
        assert (found["status"], bool(found["source"]["fault"])) == ("degraded", True)
        assert found["source"]["listedAt"] >= listed_at
        # As many as check at the same time, where there is more to check than before.
        assert after[0] <= before[0] + 8
        assert after[1] <= before[1] + 4
        assert after[2] <= before[2] * 1.1 + 2048

        registry.back()
        began = time.monotonic()
        registry.add(some[3])
        until(lambda: some[3].url in urls(server), "it is found again", 10)
        recovered = time.monotonic() - began
        say(f"found again after {recovered:.2f} s")
        assert shown(server)["source"]["fault"] is None
        assert recovered <= 2.0
