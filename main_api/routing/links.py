"""What operators are shown of each link: the settings that it was built with.

Names are as in JSON and say their unit. No secret is among the settings of a link.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from main_api.exchange import Window
from main_api.policies.admission import AdmissionSettings
from main_api.policies.cache import CacheSettings
from main_api.policies.circuit_breaker import BreakerSettings
from main_api.routing.route import Access, ToService
from main_api.routing.service import Service, ServiceNumbers

Shown = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a route's chain, by its name."""

    name: str
    settings: Shown = field(default_factory=dict)


def authentication(access: Access | None) -> Shown:
    """Show the scope that is needed; None is any good credential."""
    return {"scope": access.scope if access else None}


def rate_limit(window: Window | None) -> Shown:
    """Show the limit of callers who have no plan."""
    return {"limit": str(window) if window else None}


def scopes(needed: Mapping[tuple[str, str], str]) -> Shown:
    """Show which query takes which scope."""
    return {"needed": {f"{name}={value}": scope for (name, value), scope in needed.items()}}


def admission(settings: AdmissionSettings) -> Shown:
    """Show the room of the process."""
    return {"slots": settings.slots, "waiters": settings.waiters, "waitMs": _ms(settings.seconds)}


def cache(settings: CacheSettings | None) -> Shown:
    """Show how long answers are fresh (None: as long as the service says), and who never meets the cache."""
    if settings is None:
        return {}
    bypass = sorted(f"{name}={value}" for name, value in settings.bypass)
    return {"lifetimeSeconds": settings.lifetime, "bypass": bypass}


def bulkhead(size: int | None) -> Shown:
    """Show the service's share of the process."""
    return {"size": size}


def retry(service: Service, end: ToService) -> Shown:
    """Show how often is asked, and how fast."""
    numbers = service.numbers
    return {
        "attempts": numbers.retry.attempts,
        "attemptTimeoutMs": _ms(service.attempt_timeout(whole_list=end.whole_list)),
        "backoffMs": _ms(numbers.retry.backoff),
        "backoffMostMs": _ms(numbers.retry.backoff_most),
        "tokens": numbers.retry_tokens,
        "tokensPerSuccess": numbers.retry_tokens_returned,
    }


def balance(numbers: ServiceNumbers) -> Shown:
    """Show how an instance is chosen."""
    by = {"hashBy": numbers.hash_by} if numbers.algorithm == "consistent_hash" else {}
    return {"algorithm": numbers.algorithm, **by}


def breaker(settings: BreakerSettings) -> Shown:
    """Show when an instance is ejected and for how long."""
    return {
        "failureRate": settings.failure_rate,
        "minimumCalls": settings.minimum_calls,
        "windowSeconds": settings.window,
        "failuresInARow": settings.failures_in_a_row,
        "openSeconds": settings.open_seconds,
        "openMostSeconds": settings.open_most,
        "halfOpenCalls": settings.half_open_calls,
        "healthySeconds": settings.healthy_seconds,
    }


def send(service: Service, end: ToService) -> Shown:
    """Show where it ends, and how long all of it may take."""
    timeout = _ms(service.numbers.request_timeout)
    return {"service": service.name, "path": end.path, "requestTimeoutMs": timeout}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
