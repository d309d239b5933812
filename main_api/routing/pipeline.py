"""A route's chain of policies, composed once, when the process starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from main_api.exchange import Call, Policy, Proceed, Reply
from main_api.policies.admission import Admission
from main_api.policies.cache import Cache, Store
from main_api.policies.scopes import RequireScopes
from main_api.routing import links
from main_api.routing.links import Link
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
    if isinstance(route.end, ToFunction):
        return Pipeline((Link("function"),), route.end.function)
    service = parts.services.get(route.end.service)
    if service is None:
        raise ValueError(f"route {route.name}: there is no service {route.end.service!r}")
    end, numbers = route.end, service.numbers
    chain: list[tuple[Link, Policy | None]] = [
        (Link("scopes", links.scopes(end.scopes)), RequireScopes(end.scopes) if end.scopes else None),
        (Link("admission", links.admission(parts.admission.settings)), parts.admission),
        (Link("cache", links.cache(end.cache)), _cache(end, service, parts)),
        (Link("bulkhead", links.bulkhead(numbers.bulkhead)), service.bulkhead),
        (Link("retry", links.retry(service, end)), service.retry(whole_list=end.whole_list)),
        (Link("balance", links.balance(numbers)), service.balance),
        (Link("breaker", links.breaker(numbers.breaker)), service.breakers),
    ]
    return _compose(chain, Link("send", links.send(service, end)), service.send)


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
