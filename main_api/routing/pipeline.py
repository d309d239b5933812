"""A route's chain of policies, composed once, when the process starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from main_api.exchange import Call, Policy, Proceed, Reply
from main_api.policies.admission import Admission
from main_api.policies.cache import Cache, Store
from main_api.policies.scopes import RequireScopes
from main_api.routing.route import Route, ToFunction, ToService
from main_api.routing.service import Service
from main_api.upstream.instances import InstanceList


@dataclass(frozen=True, slots=True)
class Parts:
    """What pipelines are built of: what the whole process shares, and its services by name.

    Without a ``store`` no route has a cache. ``lists`` are where the instances of each service come from.
    """

    admission: Admission
    store: Store | None
    services: Mapping[str, Service]
    lists: Mapping[str, InstanceList] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A route's chain: call it to have a call answered; ``links`` names what it passes, outermost first."""

    links: tuple[str, ...]
    answer: Proceed

    def __call__(self, call: Call) -> Reply:
        """Answer the call, or raise a :class:`chassis.errors.ServiceError`."""
        return self.answer(call)


def build(route: Route, parts: Parts) -> Pipeline:
    """Compose the chain of ``route``: one line per link, outermost first.

    Raises :class:`ValueError`, naming the route, for what it asks that is not there.
    """
    if isinstance(route.end, ToFunction):
        return Pipeline(("function",), route.end.function)
    service = parts.services.get(route.end.service)
    if service is None:
        raise ValueError(f"route {route.name}: there is no service {route.end.service!r}")
    scopes = route.end.scopes
    chain: list[tuple[str, Policy | None]] = [
        ("scopes", RequireScopes(scopes) if scopes else None),
        ("admission", parts.admission),
        ("cache", _cache(route.end, service, parts)),
        ("bulkhead", service.bulkhead),
        ("retry", service.retry(whole_list=route.end.whole_list)),
        ("balance", service.balance),
        ("breaker", service.breakers),
    ]
    return _compose([(name, policy) for name, policy in chain if policy is not None], service.send)


def _cache(end: ToService, service: Service, parts: Parts) -> Cache | None:
    if end.cache is None or parts.store is None:
        return None
    return service.cache(end.cache, parts.store)


def _compose(chain: list[tuple[str, Policy]], send: Proceed) -> Pipeline:
    answer: Callable[[Call], Reply] = send
    for _, policy in reversed(chain):
        answer = partial(policy, proceed=answer)
    return Pipeline((*(name for name, _ in chain), "send"), answer)
