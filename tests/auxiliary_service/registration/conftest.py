"""A registry made of a set and a mood, and a keeper whose time is in the test's hands."""

from collections.abc import Callable
from typing import Any

import pytest

from auxiliary_service.registration.keeper import LOOK_SECONDS, Keeper
from auxiliary_service.registration.registry import Announced, RegistryFailed


class FakeRegistry:
    """What a keeper asks, and what became of it; ``fault`` makes every call fail, done or not."""

    name = "the registry"
    interval = 3.0

    def __init__(self) -> None:
        self.listed = False
        self.calls: list[str] = []
        self.fault: Exception | None = None
        self.done_all_the_same = False

    def register(self) -> None:
        self._call("register", lambda: setattr(self, "listed", True))

    def renew(self) -> bool:
        self._call("renew", lambda: None)
        return self.listed

    def deregister(self) -> None:
        self._call("deregister", lambda: setattr(self, "listed", False))

    def _call(self, name: str, do: Callable[[], None]) -> None:
        self.calls.append(name)
        if self.fault is None or self.done_all_the_same:
            do()
        if self.fault is not None:
            raise self.fault

    def taken(self) -> list[str]:
        """Give the calls since the last look."""
        calls, self.calls = self.calls, []
        return calls


class Kept:
    """A keeper of a :class:`FakeRegistry`, and everything that it depends on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.leads: Any = True
        self.drains = False
        self.at_the_gate: Callable[[], None] = lambda: None
        self.registry = FakeRegistry()
        self.waits: list[float] = []
        self.turned = 0.0
        self.keeper = Keeper(
            self.registry,
            leads=self._leads,
            draining=lambda: self.drains,
            gate=self,
            clock=lambda: self.now,
            wait=self._waited,
            random=lambda: 0.0,
        )

    def __enter__(self) -> None:
        self.at_the_gate()

    def __exit__(self, *_: object) -> None:
        pass

    def _leads(self) -> bool:
        if isinstance(self.leads, Exception):
            raise self.leads
        return bool(self.leads)

    def _waited(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return len(self.waits) > 2

    def turn(self) -> list[str]:
        """Let it take one turn; give what it asked."""
        self.turned = self.keeper.turn()
        assert 0 < self.turned <= LOOK_SECONDS
        return self.registry.taken()

    def run(self, seconds: float) -> list[tuple[float, str]]:
        """Let time pass; give what it asked, each with the seconds since the beginning."""
        begun, asked = self.now, []
        while self.now < begun + seconds - 1e-6:
            asked += [(round(self.now - begun, 3), call) for call in self.turn()]
            self.now = min(self.now + self.turned, begun + seconds)
        return asked


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def failed() -> Callable[[str], RegistryFailed]:
    return RegistryFailed


@pytest.fixture
def announced() -> Callable[..., Announced]:
    """Give a function that makes what is announced, with some of it changed."""

    def make(**changes: Any) -> Announced:
        what: dict[str, Any] = {
            "service": "auxiliary-service",
            "id": "auxiliary-service-pod-3001",
            "address": lambda: "10.0.0.1",
            "port": 3001,
            "version": "1.2.3",
            "weight": 2,
            "environment": "staging",
        }
        return Announced(**{**what, **changes})

    return make
