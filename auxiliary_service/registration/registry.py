"""What a registry is told of this instance, and the protocol that each kind of registry follows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """This instance as others are to see it.

    ``address`` gives its IP address, found anew for each registration: at start the network may not be
    there yet. It raises :class:`RegistryFailed`.
    """

    service: str
    id: str
    address: Callable[[], str]
    port: int
    version: str
    weight: int
    environment: str

    def at(self, address: str) -> str:
        """Write ``address`` with the port, as it stands in a URL."""
        return f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"


class RegistryFailed(Exception):
    """The registry is silent, refuses, or answers nonsense; the text is for operators, without secrets."""


class Registry(Protocol):
    """One registry, told of one instance. Each method is one try; all raise :class:`RegistryFailed`.

    Each may be repeated, and may have been done although it failed. ``name`` says in log lines which
    registry it is, ``interval`` after how many seconds a registration is to be renewed.
    """

    name: str
    interval: float

    def register(self) -> None:
        """Put this instance on the list, whether it is on it or not."""

    def renew(self) -> bool:
        """Keep it there; ``False`` when the registry does not know it any more."""

    def deregister(self) -> None:
        """Take it off the list, whether it is on it or not."""
