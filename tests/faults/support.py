"""What the fault tests share: a gateway before upstreams, its metrics, the short and the long form."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.processes import Server, request, servers
from tests.faults.instances import Upstream

LONG = os.environ.get("LONG", "") not in ("", "0")
# A single read, so an attempt has ATTEMPT_TIMEOUT; the upstream gives the target back.
READ = "/api/parameters?name=tag/"

_TELL_OF_FAULTS = ("main_api.upstream.client", "main_api.upstream.answers", "main_api.policies.ejection")


def tag(number: int) -> str:
    """Make the target of a request that no other one is like: those that ask the same share one call."""
    return f"{READ}{number}"


def per_form(short: int, long: int) -> int:
    """Choose a number by the form that was asked for."""
    return long if LONG else short


@contextmanager
def gateway(instances: list[Upstream] | list[str], **settings: str) -> Iterator[Server]:
    """Run a gateway before ``instances`` (or their URLs)."""
    urls = ",".join(each if isinstance(each, str) else each.url for each in instances)
    with servers(
        "gateway", **{"AUXILIARY_SERVICE_URL": urls, "LOG_LEVEL": "warning", "DRAIN_SECONDS": "2", **settings}
    ) as running:
        try:
            yield running["gateway"]
        except BaseException:
            # What it said of the faults that it met is many lines; what is left may be the reason.
            unexpected = [
                line for line in running["gateway"].lines() if line["logger"] not in _TELL_OF_FAULTS
            ]
            say("\n    ".join(str(line) for line in unexpected[-20:]))
            raise


def metric(gateway: Server, name: str, **labels: str) -> float:
    """Sum the samples of ``name`` that carry ``labels``."""
    text = request(gateway.port, "/metrics").body.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def changes(gateway: Server, instance: Upstream, state: str) -> int:
    """Count how often an instance's breaker has turned to ``state``."""
    return int(metric(gateway, "circuit_breaker_changes_total", instance=instance.url, state=state))


def say(what: str) -> None:
    """Print a figure; `make faults` shows it."""
    print(f"\n    {what}", flush=True)
