"""A route's chain of policies, composed once, when the process starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from main_api.exchange import Call, Policy, Proceed, Reply, Window
from main_api.policies.admission import Admission
from main_api.policies.cache import Cache, Store
from main_api.policies.query import CheckQuery
from main_api.policies.scopes import RequireScopes
from main_api.routing import links
from main_api.routing.links import Link
from main_api.routing.route import Access, Route, ToFunction, ToService
from main_api.routing.service import Service
from main_api.upstream.instances import InstanceList


@dataclass(frozen=True, slots=True)
class Guards:
    """What stands before all else of a route: who may call, and how often. None stands for nothing.

    ``within_paths`` holds callers to the paths that their scopes are narrowed to; ``decryption`` is told of
    each call that is let decrypt, and may refuse it.
    """

    authentication: Callable[[Access], Policy] | None = None
    rate_limit: Callable[[str], Policy] | None = None
    rate: Window | None = None
    within_paths: Policy | None = None
    decryption: Callable[[Call], object] = lambda _: None


@dataclass(frozen=True, slots=True)
class Parts:
    """What pipelines are built of: what the whole process shares, and its services by name.

    Without a ``store`` no route has a cache. ``lists`` are where the instances of each service come from.
    """

    admission: Admission
    store: Store | None
    services: Mapping[str, Service]
    lists: Mapping[str, InstanceList] = field(default_factory=dict)
    guards: Guards = field(default_factory=lambda: Guards())


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A route's chain: call it to have a call answered; ``chain`` is what it passes, outermost first."""

    chain: tuple[Link, ...]
    answer: Proceed

    @property
    def links(self) -> tuple[str, ...]:
        """The names of the links, in their order."""
        return tuple(each.name for each in self.chain)

    def __call__(self, call: Call) -> Reply:
        """Answer the call, or raise a :class:`chassis.errors.ServiceError`."""
        return self.answer(call)


def build(route: Route, parts: Parts) -> Pipeline:
    """Compose the chain of ``route``: one line per link, outermost first.

    Raises :class:`ValueError`, naming the route, for what it asks that is not there.
    """
    guards = parts.guards
    door: list[tuple[Link, Policy | None]] = [
        (Link("authenticate", links.authentication(route.access)), _authentication(route, guards)),
        (Link("rate_limit", links.rate_limit(guards.rate)), _rate_limit(route, guards)),
        (Link("query"), CheckQuery(route.query) if route.query else None),
    ]
    if isinstance(route.end, ToFunction):
        return _compose(door, Link("function"), route.end.function)
    service = parts.services.get(route.end.service)
    if service is None:
        raise ValueError(f"route {route.name}: there is no service {route.end.service!r}")
    end, numbers = route.end, service.numbers
    chain: list[tuple[Link, Policy | None]] = [
        *door,
        (Link("paths"), guards.within_paths if route.access and end.scopes else None),
        (Link("scopes", links.scopes(end.scopes)), _scopes(end, guards)),
        (Link("admission", links.admission(parts.admission.settings)), parts.admission),
        (Link("cache", links.cache(end.cache)), _cache(end, service, parts)),
        (Link("bulkhead", links.bulkhead(numbers.bulkhead)), service.bulkhead),
        (Link("retry", links.retry(service, end)), service.retry(whole_list=end.whole_list)),
        (Link("balance", links.balance(numbers)), service.balance),
        (Link("breaker", links.breaker(numbers.breaker)), service.breakers),
    ]
    return _compose(chain, Link("send", links.send(service, end)), service.send)


def _authentication(route: Route, guards: Guards) -> Policy | None:
    if route.access is None or guards.authentication is None:
        return None
    return guards.authentication(route.access)


def _rate_limit(route: Route, guards: Guards) -> Policy | None:
    return guards.rate_limit(route.name) if route.limited and guards.rate_limit else None


def _scopes(end: ToService, guards: Guards) -> Policy | None:
    return RequireScopes(end.scopes, guards.decryption) if end.scopes else None


def _cache(end: ToService, service: Service, parts: Parts) -> Cache | None:
    if end.cache is None or parts.store is None:
        return None
    return service.cache(end.cache, parts.store)


def _compose(chain: list[tuple[Link, Policy | None]], last: Link, send: Proceed) -> Pipeline:
    answer: Callable[[Call], Reply] = send
    for _, policy in reversed(chain):
        if policy is not None:
            answer = partial(policy, proceed=answer)
    return Pipeline((*(link for link, policy in chain if policy is not None), last), answer)
