"""The pair that finds itself: an auxiliary puts itself on a registry's list, and the gateway follows it."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from chassis.settings import RUNTIME_DIR
from tests.end_to_end.processes import HOST, Server, request, servers, until
from tests.faults import load
from tests.faults.registries import REGISTRIES, SERVICE, Registry
from tests.faults.support import say

BUCKETS = "/api/s3/buckets?limit="


# A name server takes no registrations.
@pytest.fixture(params=["consul", "etcd"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    with REGISTRIES[request.param]() as running:
        yield running


@contextmanager
def auxiliary(registry: Registry, aws: Server, **settings: str) -> Iterator[Server]:
    """Run an auxiliary that registers itself; it may have been stopped before the block ends."""
    with servers(
        "auxiliary", ports={"aws": aws.port}, **{"DRAIN_SECONDS": "3", **registry.environment, **settings}
    ) as running:
        try:
            yield running["auxiliary"]
        finally:
            running["auxiliary"].stop()
            for each in RUNTIME_DIR.glob(f"auxiliary-service-{running['auxiliary'].port}.*"):
                each.unlink()  # locks outlive a stop


def listed(gateway: Server) -> dict[str, dict[str, Any]]:
    """Give the instances that the gateway knows, by URL."""
    return {each["url"]: each for each in request(gateway.port, f"/services/{SERVICE}").json["instances"]}


def available(gateway: Server, server: Server) -> bool:
    return listed(gateway).get(url(server), {}).get("state") == "available"


def url(server: Server) -> str:
    return f"http://{HOST}:{server.port}"


def target(number: int) -> str:
    """Ask for something else each time: those who ask the same share one call."""
    return f"{BUCKETS}{1 + number % 1000}"


def answered_by_aws(request_id: str, target: str, body: bytes) -> bool:
    return b'"creationDate"' in body


def test_an_auxiliary_is_replaced_by_another_and_no_request_notices(registry: Registry) -> None:
    with ExitStack() as stack:
        aws = stack.enter_context(servers("aws"))["aws"]
        first = stack.enter_context(auxiliary(registry, aws, SERVICE_VERSION="1.1.0", SERVICE_WEIGHT="3"))
        gateway = stack.enter_context(servers("gateway", **registry.environment))["gateway"]
        until(lambda: available(gateway, first), "the gateway has found it")
        assert set(listed(gateway)) == {url(first)}
        assert listed(gateway)[url(first)]["weight"] == 3
        answer = request(gateway.port, BUCKETS + "1").json
        assert (answer["success"], answer["versions"]["auxiliary-service"]) == (True, "1.1.0")

        def replace() -> Server:
            second = stack.enter_context(auxiliary(registry, aws, SERVICE_VERSION="1.2.0"))
            until(lambda: available(gateway, second), "the gateway has found the other")
            first.stop()
            return second

        replaced: list[Future[Server]] = []
        with ThreadPoolExecutor(1) as pool:

            def each(seconds: float) -> None:
                if seconds >= 1 and not replaced:
                    replaced.append(pool.submit(replace))

            result = load.closed(
                gateway.port,
                target,
                4,
                100_000,
                seconds=60,
                check=answered_by_aws,
                until=lambda: bool(replaced) and replaced[0].done(),
                each=each,
            )
        second = replaced[0].result(0)

        say(f"one auxiliary for another under load; {result.table()}")
        assert dict(result.statuses) == {200: result.done}
        assert (result.wrong, result.broken) == ([], {})
        until(lambda: set(listed(gateway)) == {url(second)}, "only the other is listed", 2)
        assert request(gateway.port, BUCKETS + "1").json["versions"]["auxiliary-service"] == "1.2.0"
