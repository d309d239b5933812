"""Readiness: whether the pair can answer. Liveness and serving are the chassis'."""

import json
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from time import monotonic

from cachetools import TTLCache, cached

from chassis import timestamp
from chassis.errors import ServiceError
from main_api.exchange import Call, Proceed, Reply
from main_api.routing.route import Documentation, Route, ToFunction
from main_api.schemas.answers import NotReady, Ready

READY = "/api/health/ready"
ASK_SECONDS = 1.0
KEPT_SECONDS = 1.0

Answer = tuple[int, bytes]
Shown = Callable[[], Mapping[str, str]]


class Readiness:
    """Asks the auxiliary's ``/health``, one second at most, whatever number of callers ask at once.

    The answer is shared by concurrent askers and kept for a second, so that probes and curious people
    cost the auxiliary one small request a second. Who asks while the next answer is on its way gets the
    one before: a crowd that waits for an auxiliary that hangs would hold every thread. Every instance is
    tried before the pair is called not ready.
    """

    def __init__(self, ask: Proceed, instances: Callable[[], int], versions: Shown) -> None:
        self._ask = ask
        self._instances = instances
        self._versions = versions
        self._asking = False
        self._last: tuple[float, Answer] | None = None
        self._shared = cached(
            TTLCache(maxsize=1, ttl=KEPT_SECONDS), key=_one_key, condition=threading.Condition()
        )(self._look)

    def __call__(self, call: Call) -> Reply:
        """Answer 200 ``ready`` or 503 ``not ready``."""
        status, body = self._before() or self._shared(call)
        headers = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))
        return Reply(status, headers, body)

    def _before(self) -> Answer | None:
        last = self._last
        if not self._asking or last is None or monotonic() - last[0] > KEPT_SECONDS + ASK_SECONDS:
            return None
        return last[1]

    def _look(self, call: Call) -> Answer:
        self._asking = True
        try:
            answer = self._ask_all(call)
        finally:
            self._asking = False
        self._last = (monotonic(), answer)
        return answer

    def _ask_all(self, call: Call) -> Answer:
        attempts = max(1, self._instances())
        ready = any(self._answers(call, ASK_SECONDS / attempts) for _ in range(attempts))
        facts: dict[str, object] = {"status": "ready" if ready else "not ready"}
        versions = dict(self._versions())
        if not ready:
            facts["error"] = "Auxiliary service not available"
            versions["auxiliary-service"] = "unknown"
        facts |= {"timestamp": timestamp(), "versions": versions, "service": "main-api"}
        return (200 if ready else 503), f"{json.dumps(facts)}\n".encode()

    def _answers(self, call: Call, seconds: float) -> bool:
        try:
            reply = self._ask(replace(call, path="/health", query=(), deadline=monotonic() + seconds))
        except ServiceError:
            return False
        reply.close()
        return True


def _one_key(_: Call) -> Hashable:
    return READY


def routes(readiness: Readiness) -> tuple[Route, ...]:
    """Give the routes of this room."""
    return (
        Route(
            name="ready",
            rule=READY,
            end=ToFunction(readiness),
            documentation=Documentation(
                "Whether the gateway and the auxiliary service can answer",
                Ready,
                errors=(503,),
                tag="health",
                unwell=NotReady,
            ),
        ),
    )
