"""A route's chain of policies, composed once, when the process starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from main_api.exchange import Call, Instance, Policy, Proceed, Reply
from main_api.policies.balance import Balance
from main_api.policies.scopes import RequireScopes
from main_api.routing.route import Route, ToFunction


@dataclass(frozen=True, slots=True)
class Service:
    """What all routes to one service share: its instances, whose turn it is, and how it is spoken to."""

    instances: tuple[Instance, ...]
    balance: Balance
    send: Proceed


@dataclass(frozen=True, slots=True)
class Parts:
    """What pipelines are built of."""

    services: Mapping[str, Service]


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
    chain: list[tuple[str, Policy] | None] = [
        ("scopes", RequireScopes(scopes)) if scopes else None,
        ("balance", service.balance),
    ]
    return _compose([link for link in chain if link is not None], service.send)


def _compose(chain: list[tuple[str, Policy]], send: Proceed) -> Pipeline:
    answer: Callable[[Call], Reply] = send
    for _, policy in reversed(chain):
        answer = partial(policy, proceed=answer)
    return Pipeline((*(name for name, _ in chain), "send"), answer)
