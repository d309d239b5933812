"""The bodies of the operations endpoints, for the documentation; the tests hold real answers to them."""

from marshmallow import Schema, fields

from main_api.schemas.answers import TIME

_STATUS = {
    "enum": ["healthy", "degraded", "unhealthy"],
    "description": "healthy: nothing is wrong. degraded: some instance is not available, or the list is an "
    "old one because its registry is away. unhealthy: no instance can be asked.",
}
_WHY = {"description": "What is wrong, in a few words; null for nothing."}
_BREAKER = {"enum": ["closed", "open", "half_open"]}
_OUTCOMES = {"description": "How they ended, 2xx to 5xx or an error's code, and how often."}


def _moment(text: str, *, nullable: bool = False) -> fields.String:
    return fields.String(
        required=True,
        allow_none=nullable,
        metadata={**TIME, "description": f"{text}; {TIME['description']}."},
    )


def _text(text: str, *, nullable: bool = False, **metadata: object) -> fields.String:
    return fields.String(
        required=True, allow_none=nullable, metadata={"description": text, **metadata} if text else metadata
    )


def _count(text: str) -> fields.Integer:
    return fields.Integer(required=True, metadata={"description": text, "minimum": 0})


def _milliseconds(text: str) -> fields.Float:
    return fields.Float(required=True, allow_none=True, metadata={"description": f"{text}; null for none."})


def _counts(**metadata: object) -> fields.Dict:
    return fields.Dict(keys=fields.String(), values=fields.Integer(), required=True, metadata={**metadata})


class _OfWorker(Schema):
    worker = _count(
        "Process id of the worker that answers: all of this is its own, sums of all workers are in /metrics."
    )
    timestamp = fields.String(required=True, metadata=TIME)


class Check(Schema):
    """What an active health check found."""

    at = _moment("When it ended")
    ok = fields.Boolean(required=True)
    cause = _text("What was wrong; null for nothing.", nullable=True, example="NewConnectionError")


class ServiceCheck(Check):
    """The last active health check of any instance of a service."""

    instance = _text("Whom it asked.", example="http://10.0.0.5:3001")


class ServiceCondition(Schema):
    """How a service is."""

    name = fields.String(required=True, metadata={"example": "auxiliary-service"})
    status = fields.String(required=True, metadata=_STATUS)
    why = fields.String(required=True, allow_none=True, metadata=_WHY)
    instances = _count("How many are listed.")
    available = _count("How many of them nothing speaks against.")
    lastCheck = fields.Nested(ServiceCheck, required=True, allow_none=True)


class Health(_OfWorker):
    """``/health``."""

    status = fields.String(
        required=True, metadata={**_STATUS, "description": "That of the service that is worst."}
    )
    services = fields.List(fields.Nested(ServiceCondition), required=True)


class ServiceHealth(ServiceCondition, _OfWorker):
    """``/health/<service>``, 200 and 503 alike."""


class ServiceSummary(Schema):
    """A service in few words."""

    name = fields.String(required=True, metadata={"example": "auxiliary-service"})
    status = fields.String(required=True, metadata=_STATUS)
    source = _text("Where its instances come from.", example="consul://auxiliary")
    instances = _count("How many are listed.")
    available = _count("How many of them nothing speaks against.")


class Services(_OfWorker):
    """``/services``."""

    services = fields.List(fields.Nested(ServiceSummary), required=True)


class InstanceSource(Schema):
    """Where the instances of a service come from."""

    name = _text("static, or the address of a registry.", example="consul://auxiliary")
    fault = _text("Why the list is the last good one and not the newest; null while it is.", nullable=True)
    listedAt = _moment("When the source last gave a list; null before the first", nullable=True)


class LastSeen(Schema):
    """Where and when an instance was last listed."""

    at = _moment("When", nullable=True)
    source = _text("", example="static")


class RecentLatency(Schema):
    """Of the last 128 attempts at most."""

    count = _count("How many attempts these figures are of.")
    medianMs = _milliseconds("Median")
    p95Ms = _milliseconds("95th percentile")


class InstanceCondition(Schema):
    """How an instance is."""

    url = fields.String(required=True, metadata={"example": "http://10.0.0.5:3001"})
    weight = fields.Integer(required=True)
    state = _text(
        "ejected: its breaker is open. unhealthy: the health checks say so. new: no health check has "
        "succeeded yet. half_open: a few calls decide.",
        enum=["available", "ejected", "half_open", "new", "unhealthy"],
    )
    why = fields.String(required=True, allow_none=True, metadata={**_WHY, "example": "5 failures in a row"})
    breaker = fields.String(required=True, metadata=_BREAKER)
    inFlight = _count("Attempts under way.")
    latency = fields.Nested(RecentLatency, required=True)
    lastCheck = fields.Nested(Check, required=True, allow_none=True)
    lastSeen = fields.Nested(LastSeen, required=True)


class ServiceDetail(_OfWorker):
    """``/services/<name>``."""

    name = fields.String(required=True, metadata={"example": "auxiliary-service"})
    status = fields.String(required=True, metadata=_STATUS)
    why = fields.String(required=True, allow_none=True, metadata=_WHY)
    source = fields.Nested(InstanceSource, required=True)
    panic = fields.Boolean(
        required=True,
        metadata={
            "description": "true: fewer than half are healthy, so the checks are not believed and the "
            "unhealthy are asked too."
        },
    )
    instances = fields.List(fields.Nested(InstanceCondition), required=True)


class CircuitBreaker(Schema):
    """One breaker as it is."""

    name = _text("The instance that it is of.", example="http://10.0.0.5:3001")
    service = fields.String(required=True, metadata={"example": "auxiliary-service"})
    listed = fields.Boolean(
        required=True, metadata={"description": "false: the instance left the list less than a minute ago."}
    )
    state = fields.String(required=True, metadata=_BREAKER)
    why = _text("The reason of its last change; null before the first.", nullable=True)
    since = _moment("When it came into this state")
    calls = _count(
        "Calls that count: of its window; since it is half-open; or, while open, those that opened it."
    )
    failures = _count("How many of these failed.")
    failuresInARow = _count("Failures since a call last succeeded.")
    opened = _count("How often it has opened since it was made.")
    nextAttempt = _moment(
        "When an open one lets a call through, which may be over: it stays open until somebody asks; null "
        "otherwise",
        nullable=True,
    )


class CircuitBreakers(_OfWorker):
    """``/circuit-breakers``."""

    circuitBreakers = fields.List(fields.Nested(CircuitBreaker), required=True)


class RouteLink(Schema):
    """One link of a route's chain."""

    name = fields.String(required=True, metadata={"example": "retry"})
    settings = fields.Dict(
        keys=fields.String(),
        required=True,
        metadata={
            "description": "What it was built with; a name says its unit.",
            "example": {"attempts": 3, "backoffMs": 25.0},
        },
    )


class RouteDescription(Schema):
    """One route."""

    name = fields.String(required=True, metadata={"example": "buckets-list"})
    rule = fields.String(required=True, metadata={"example": "/api/s3/buckets"})
    methods = fields.List(fields.String(), required=True)
    links = fields.List(
        fields.Nested(RouteLink), required=True, metadata={"description": "In the order of a request."}
    )


class Routes(_OfWorker):
    """``/routes``."""

    routes = fields.List(fields.Nested(RouteDescription), required=True)


class Latency(RecentLatency):
    """Of the last 1,024 at most."""

    count = _count("How many these figures are of.")
    p99Ms = _milliseconds("99th percentile")


class RouteStats(Schema):
    """What one rule was asked for."""

    route = _text(
        "The rule; <unmatched> for none, <unparsed> for what the HTTP server refused.",
        example="/api/s3/buckets",
    )
    requests = _count("Requests answered.")
    classes = _counts(description="The answers by the class of their status, 2xx to 5xx.")
    errors = _counts(description="The answers that were errors, by code.")
    attempts = _count("How often services were asked for them.")
    latency = fields.Nested(Latency, required=True)


class CacheStats(Schema):
    """What the cache did for the answers of a service."""

    hit = _count("Given from the store.")
    miss = _count("Asked for.")
    validated = _count("Stored, and confirmed by the service.")
    collapsed = _count("Shared the call of another request that asked the same at the same time.")
    stale = _count("Stood in for a failure.")
    uncacheable = _count("Asked for, and not to be kept.")


class RetryTokens(Schema):
    """The throttle of the retries."""

    left = fields.Float(required=True, metadata={"description": "Below half there is no retry."})
    size = fields.Float(required=True)


class InstanceStats(Schema):
    """Attempts at one instance."""

    url = fields.String(required=True, metadata={"example": "http://10.0.0.5:3001"})
    attempts = _count("Attempts that have ended.")
    outcomes = _counts(**_OUTCOMES)
    latency = fields.Nested(RecentLatency, required=True)


class ServiceStats(Schema):
    """What one service was asked for."""

    name = fields.String(required=True, metadata={"example": "auxiliary-service"})
    attempts = _count("Attempts that have ended; those for readiness too.")
    outcomes = _counts(**_OUTCOMES)
    latency = fields.Nested(Latency, required=True)
    retries = _counts(description="Further attempts, by what the one before ended in.")
    retriesThrottled = _count("Retries that the throttle forbade.")
    retryTokens = fields.Nested(RetryTokens, required=True)
    turnedAway = _count("Requests turned away because the service's BULKHEAD was full.")
    cache = fields.Nested(CacheStats, required=True)
    instances = fields.List(fields.Nested(InstanceStats), required=True)


class AdmissionStats(Schema):
    """The room of this process."""

    slots = _count("Requests in service at once.")
    inService = _count("How many are.")
    waitersMost = _count("Requests that may wait for a slot.")
    waiting = _count("How many do.")
    turnedAway = _count("Requests turned away.")


class GatewayStats(_OfWorker):
    """``/gateway/stats``."""

    since = _moment("When this worker began to count")
    requests = _count("Requests answered, on every rule.")
    errors = _count("Answers that were errors.")
    admission = fields.Nested(AdmissionStats, required=True)
    routes = fields.List(fields.Nested(RouteStats), required=True)
    services = fields.List(fields.Nested(ServiceStats), required=True)
