"""The instances of a service, where they are written down."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from main_api.exchange import Instance

_WEIGHTED = re.compile(r"(?P<url>[^;]+)(?:;weight=(?P<weight>[0-9]+))?\Z")


def static(service: str, addresses: Iterable[str]) -> tuple[Instance, ...]:
    """Give the instances that the configuration lists (``url`` or ``url;weight=n``), in its order, each once.

    Raises :class:`ValueError` for an address that is not of this form.
    """
    made: dict[str, Instance] = {}
    for address in addresses:
        found = _WEIGHTED.match(address)
        if found is None:
            raise ValueError(f"{address!r}: http://host:port or http://host:port;weight=2 needed")
        made.setdefault(found["url"], Instance(service, found["url"], int(found["weight"] or 1)))
    return tuple(made.values())


@dataclass(frozen=True, slots=True)
class ListState:
    """What is known of where a list comes from; moments are of the monotonic clock.

    ``source`` is the address that it was configured by, ``static`` for a list in the configuration.
    ``fault`` says why the list that is served is not the newest, ``None`` while it is; ``listed_at`` is
    when the source last gave a list that was taken, ``None`` before the first.
    """

    source: str
    fault: str | None
    listed_at: float | None


class InstanceList(Protocol):
    """The instances of one service, wherever they come from."""

    def __call__(self) -> Sequence[Instance]:
        """Give the instances that may be asked now."""

    @property
    def state(self) -> ListState:
        """What is known of where they come from."""

    def seen(self, instance: Instance) -> float | None:
        """Give the moment at which ``instance`` was last listed."""


class Static:
    """The instances that the configuration lists; they never change."""

    def __init__(self, instances: Iterable[Instance]) -> None:
        self._instances = tuple(instances)
        self._since = monotonic()

    def __call__(self) -> Sequence[Instance]:
        """Give them."""
        return self._instances

    @property
    def state(self) -> ListState:
        """What is known of them: that they are always right."""
        return ListState("static", None, self._since)

    def seen(self, instance: Instance) -> float | None:
        """Give the start of the process."""
        return self._since if instance in self._instances else None
