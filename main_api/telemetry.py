"""The gateway's own metrics, beside those of the chassis."""

from prometheus_client import CollectorRegistry, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Telemetry:
    """Counts and times on the registry that the app hands in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._upstream = Histogram(
            "upstream_request_duration_seconds",
            "Time of one attempt, from sending it to the end of its answer.",
            ("service", "outcome"),
            buckets=SECONDS,
            registry=registry,
        )

    def upstream(self, service: str, outcome: str, seconds: float) -> None:
        """Record one attempt: ``outcome`` is ``2xx`` to ``5xx``, or the code of the error it ended in."""
        self._upstream.labels(service, outcome).observe(seconds)
