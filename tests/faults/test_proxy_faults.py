"""Every fault of the proxy, in every phase, for a method that may be asked twice and one that may not."""

import random
from collections import Counter

import pytest

from tests.end_to_end.processes import Server, request, servers
from tests.faults import load
from tests.faults.instances import upstreams
from tests.faults.proxy import PLANS, Fault, FaultProxy
from tests.faults.support import READ, gateway, metric, per_form, say

# The contract's table: what each fault is for the client.
EXPECTED = {
    ("none", "connect"): (200, None),
    ("refuse", "connect"): (503, "upstream_unavailable"),
    ("reset", "connect"): (502, "bad_gateway"),
    ("hang", "connect"): (504, "gateway_timeout"),
    ("reset", "headers"): (502, "bad_gateway"),
    ("hang", "headers"): (504, "gateway_timeout"),
    ("drip", "headers"): (504, "gateway_timeout"),
    ("half_headers", "headers"): (502, "bad_gateway"),
    ("reset", "body"): (502, "bad_gateway"),
    ("hang", "body"): (504, "gateway_timeout"),
    ("drip", "body"): (504, "gateway_timeout"),
    ("half_body", "body"): (502, "bad_gateway"),
    ("extra_bytes", "body"): (200, None),
}
# The deadline of ALONE and a tenth of a second.
LATEST = 1.1
ANSWERED = {"none", "extra_bytes"}
# One instance, judged request by request: no breaker, no checks between, and time for three attempts.
ALONE = {
    "REQUEST_TIMEOUT": "1",
    "ATTEMPT_TIMEOUT": "0.3",
    "HEALTH_CHECK_INTERVAL": "0",
    "BREAKER_FAILURES_IN_A_ROW": "100000",
    "BREAKER_MINIMUM_CALLS": "100000",
    "RETRY_TOKENS": "100000",
    "LOG_LEVEL": "warning",
    "DRAIN_SECONDS": "2",
}


def test_every_fault_has_its_answer() -> None:
    assert set(EXPECTED) == set(PLANS)


def judge(server: Server, proxy: FaultProxy, method: str, fault: Fault, *, kept: bool) -> None:
    """Ask once through ``fault``, on a kept or a new connection, and hold the answer to the table.

    An answer that is late is asked for anew, twice at most: the machine may have been busy for a moment.
    """
    late = 0
    while judge_once(server, proxy, method, fault, kept=kept) > LATEST:
        late += 1
        assert late < 3, f"{method} through {fault} is late each time"


def judge_once(server: Server, proxy: FaultProxy, method: str, fault: Fault, *, kept: bool) -> float:
    proxy.fault = Fault()
    if kept:
        assert request(server.port, "/tagged").status == 200
    else:
        proxy.reset_kept()
    proxy.fault = fault
    struck, read = proxy.injected.total(), proxy.requests[method]

    answer = request(server.port, "/tagged", method, X_Request_ID="the-only-one")

    struck, read = proxy.injected.total() - struck, proxy.requests[method] - read
    assert (answer.status, answer.json.get("code")) == EXPECTED[fault.kind, fault.phase]
    assert answer.headers["X-Request-ID"] == "the-only-one"
    if answer.status == 200:
        assert answer.json["data"]["data"]["id"] == "the-only-one"
        assert answer.json["data"]["data"]["method"] == method
    if method == "POST":
        assert read <= 1
        assert struck <= 1
    elif fault.kind not in {*ANSWERED, "refuse"}:
        assert 2 <= struck <= 3
    return answer.seconds


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("kept", [False, True], ids=["a new connection", "a kept one"])
def test_each_fault_is_exactly_the_status_of_the_table(method: str, kept: bool) -> None:
    with (
        upstreams(1) as [upstream],
        FaultProxy(upstream.port) as proxy,
        servers("posting", AUXILIARY_SERVICE_URL=f"http://127.0.0.1:{proxy.port}", **ALONE) as running,
    ):
        for kind, phase in PLANS:
            judge(running["posting"], proxy, method, Fault(kind, phase), kept=kept)
            # Whatever it was, the next request is not harmed by it.
            proxy.fault = Fault()
            assert request(running["posting"].port, "/tagged", method).status == 200
        judge(running["posting"], proxy, method, Fault("extra_bytes", "body", 0.02), kept=kept)


def own(request_id: str, target: str, body: bytes) -> bool:
    return b'"id":"%s"' % request_id.encode() in body and target.rpartition("/")[2].encode() in body


def test_no_answer_ever_belongs_to_another_request() -> None:
    count = per_form(100_000, 300_000)
    chance = random.Random(7)
    mixture = [Fault(*plan) for plan in PLANS if plan not in {("none", "connect"), ("refuse", "connect")}]
    # The bytes that nobody asked for are what this is about: on time, late, and often.
    mixture += [Fault("extra_bytes", "body", after) for after in (0.0, 0.001, 0.005, 0.02)] * 4

    def fault() -> Fault:
        return chance.choice(mixture) if chance.random() < 0.03 else Fault()

    with (
        upstreams(2) as instances,
        FaultProxy(instances[0].port, fault) as first,
        FaultProxy(instances[1].port, fault) as second,
        gateway(
            [f"http://127.0.0.1:{each.port}" for each in (first, second)],
            WEB_CONCURRENCY="2",
            GUNICORN_THREADS="32",
            ATTEMPT_TIMEOUT="0.3",
        ) as server,
    ):
        result = load.closed(
            server.port, lambda number: f"{READ}{number}-end", 32, count, seconds=count / 50, check=own
        )

        struck: Counter[str] = Counter()
        for proxy in (first, second):
            for each, times in proxy.injected.items():
                struck[each.kind] += times
        del struck["none"]
        say(f"{struck.total()} faults {dict(struck)}, {metric(server, 'upstream_retries_total'):.0f} retries")
        say(result.table())
        assert result.done == count
        assert (result.wrong, result.broken) == ([], {})
        assert set(result.statuses) <= {200, 502, 503, 504}
        assert result.statuses[200] >= 0.99 * count
        assert struck.total() >= count / 50
        assert struck["extra_bytes"] >= count / 100
