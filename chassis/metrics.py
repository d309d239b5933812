"""Metrics for Prometheus, right with any number of worker processes.

Always prometheus_client's multiprocess mode (each worker writes memory-mapped files into one folder,
any of them answers for all), also with one worker, so that there is one way and it is tested. The
hooks are our own on prometheus-flask-exporter's registry: its defaults miss 404, 405 and whatever
was refused before a view, and carry other names and labels.
"""

import functools
import re
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from time import perf_counter

from flask import Flask, Response, current_app, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_flask_exporter import PrometheusMetrics
from werkzeug.exceptions import MethodNotAllowed

SECONDS = (0.1, 0.3, 0.5, 0.7, 1, 3, 5, 7, 10)
UNMATCHED = "<unmatched>"
UNPARSED = "<unparsed>"
# Every token that a client invents would be a new series for good.
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
OTHER_METHOD = "<other>"
# Any but the versions that there are: prometheus_client repeats them in Content-Type, or fails at them.
_OTHER_VERSION = re.compile(r"version=(?!(?:0\.0\.[1-4]|1\.0\.0)\s*(?:[;,]|\Z))[^;,]*")


def route_label() -> str:
    """Name the current request's rule, ``<unmatched>`` for none, ``<unparsed>`` for what gunicorn refused."""
    if "chassis.refusal" in request.environ:
        return UNPARSED
    if request.url_rule is not None:
        return request.url_rule.rule
    refused = request.routing_exception
    if isinstance(refused, MethodNotAllowed) and refused.valid_methods:
        # The path has a rule, for other methods: Flask does not say which.
        adapter = current_app.create_url_adapter(request)
        method = next(iter(refused.valid_methods))
        # Not as a WebSocket, whatever the request says: no rule is one.
        rule, _ = adapter.match(method=method, return_rule=True, websocket=False)  # type: ignore[union-attr]  # a request has one
        return str(rule.rule)
    return UNMATCHED


def method_label() -> str:
    """Name the current request's method, ``<other>`` for one that is not in common use or was never read."""
    known = request.method in METHODS and "chassis.refusal" not in request.environ
    return request.method if known else OTHER_METHOD


def elapsed() -> float:
    """Seconds since the current request's first hook."""
    started: float = g.started
    return perf_counter() - started


def bodiless(response: Response) -> bool:
    """Whether nothing but headers is sent, whatever ``response`` holds (RFC 9110, 6.4.1)."""
    return request.method == "HEAD" or response.status_code in (204, 304)


def when_done(response: Response, finish: Callable[[], None]) -> None:
    """Call ``finish`` when the answer is complete: at once, or at the end of a body that streams.

    By then Flask has taken its contexts down: ``finish`` finds ``g`` and ``request`` in a copy.
    """
    if response.is_streamed and not bodiless(response):
        response.call_on_close(functools.partial(copy_context().run, finish))
    else:
        finish()


def install(
    app: Flask, service: str, folder: Path, counted: Callable[[str, int, float], object] | None = None
) -> CollectorRegistry:
    """Measure every request of ``app`` and serve ``/metrics``; give the registry for a service's own.

    ``counted`` is told of each one too: its rule, its status, and its seconds.
    In ``folder`` :mod:`chassis.worker` leaves a ``worker_<pid>.pid`` per living worker; the figures
    themselves are where ``PROMETHEUS_MULTIPROC_DIR`` said when prometheus_client was loaded.
    """
    exporter = PrometheusMetrics.for_app_factory(
        path=None, export_defaults=False, registry=CollectorRegistry(auto_describe=True)
    )
    exporter.init_app(app)
    labels = ("method", "route", "status_code", "app")
    duration = Histogram(
        "http_request_duration_seconds",
        "Time from the first hook of a request to its complete answer.",
        labels,
        buckets=SECONDS,
        registry=exporter.registry,
    )
    count = Counter("http_requests_total", "Requests answered.", labels, registry=exporter.registry)

    def start() -> None:
        g.started = perf_counter()

    def observe(response: Response) -> Response:
        names = (method_label(), route_label(), str(response.status_code), service)

        def finish() -> None:
            seconds = elapsed()
            duration.labels(*names).observe(seconds)
            count.labels(*names).inc()
            if counted is not None:
                counted(names[1], response.status_code, seconds)

        when_done(response, finish)
        return response

    def expose() -> Response:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # has no types
        registry.register(WorkerProcesses(folder))
        # The query is not looked at: restricting by name[] is answered with 500 in multiprocess mode.
        accept = _OTHER_VERSION.sub("version=0", request.headers.get("Accept", ""))
        encode, content_type = choose_encoder(accept)
        return Response(encode(registry), content_type=content_type, headers={"Cache-Control": "no-store"})

    app.before_request(start)
    app.after_request(observe)
    app.add_url_rule("/metrics", "metrics", expose)
    registry: CollectorRegistry = exporter.registry
    return registry


class WorkerProcesses(Collector):
    """Memory, CPU, file descriptors and start time of every living worker, by ``pid``, from ``/proc``.

    prometheus_client's own process figures do not exist in multiprocess mode.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Give each family once, with one sample per worker."""
        families: dict[str, Metric] = {}
        for file in sorted(self._folder.glob("worker_*.pid")):
            pid = file.stem.removeprefix("worker_")
            for family in ProcessCollector(pid=functools.partial(str, pid), registry=None).collect():
                kept = families.setdefault(
                    family.name,
                    Metric(family.name, f"{family.documentation} One sample per worker.", family.type),
                )
                for sample in family.samples:
                    kept.add_sample(sample.name, {**sample.labels, "pid": pid}, sample.value)
        yield from families.values()
