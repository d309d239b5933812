"""Whatever fails in whatever order: once all is well it is registered, and once it drains it is not."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from auxiliary_service.registration.keeper import LAST_PAUSE, LOOK_SECONDS, Keeper
from auxiliary_service.registration.registry import RegistryFailed

WORKERS = 2
INTERVAL = 3.0
# After which all must be right again: the longest pause, the longest interval, and a look at lock and drain.
RECOVERED = LAST_PAUSE + INTERVAL + 2 * LOOK_SECONDS

MOODS = ("well", "refuses", "does and fails", "does it later and fails")
EVENTS = st.one_of(
    st.tuples(st.just("mood"), st.sampled_from(MOODS)),
    st.tuples(st.just("drain"), st.booleans()),
    st.tuples(st.just("dies"), st.integers(0, WORKERS - 1)),
    st.tuples(st.just("forgets"), st.none()),
    st.tuples(st.just("arrives"), st.none()),
    st.tuples(st.just("passes"), st.floats(0.01, 8)),
)


class World:
    """One pod's workers, their lock and drain file, and one registry; time passes when told to."""

    def __init__(self, random: Callable[[], float]) -> None:
        self.now = 0.0
        self.random = random
        self.mood = "well"
        self.listed = False
        self.drains = False
        self.leader: object | None = None
        self.late: list[Callable[[], None]] = []
        self.calls = 0
        self.workers = [Worker(self) for _ in range(WORKERS)]

    def happens(self, event: tuple[str, Any]) -> None:
        """Let one of :data:`EVENTS` happen."""
        kind, what = event
        if kind == "mood":
            self.mood = what
        elif kind == "drain":
            self.drains = what
        elif kind == "dies":
            if self.leader is self.workers[what]:
                self.leader = None
            self.workers[what] = Worker(self)
        elif kind == "forgets":
            self.listed = False
        elif kind == "arrives":
            self.arrive()
        else:
            self.passes(what)

    def arrive(self) -> None:
        """Do what was asked for long ago, the last first."""
        while self.late:
            self.late.pop()()

    def passes(self, seconds: float) -> None:
        """Let every worker take its turns for ``seconds``."""
        until = self.now + seconds
        while (worker := min(self.workers, key=lambda each: each.next)).next < until:
            self.now = max(self.now, worker.next)
            waits = worker.keeper.turn()
            assert 0 < waits <= LOOK_SECONDS
            worker.next = self.now + waits
        self.now = until


class Worker:
    """A worker's keeper, and the registry as it sees it."""

    name = "the registry"
    interval = INTERVAL

    def __init__(self, world: World) -> None:
        self.world = world
        self.next = world.now
        self.keeper = Keeper(
            self,
            leads=self._leads,
            draining=lambda: world.drains,
            clock=lambda: world.now,
            random=world.random,
        )

    def _leads(self) -> bool:
        if self.world.leader is None:
            self.world.leader = self
        return self.world.leader is self

    def register(self) -> None:
        self._call(lambda: setattr(self.world, "listed", True))

    def renew(self) -> bool:
        self._call(lambda: None)
        return self.world.listed

    def deregister(self) -> None:
        self._call(lambda: setattr(self.world, "listed", False))

    def _call(self, do: Callable[[], None]) -> None:
        world = self.world
        assert world.leader is self
        world.calls += 1
        if world.mood in ("well", "does and fails"):
            do()
        elif world.mood == "does it later and fails":
            world.late.append(do)
        if world.mood != "well":
            raise RegistryFailed(world.mood)


@given(st.lists(EVENTS, max_size=40), st.floats(0, 1))
def test_when_all_is_well_again_the_list_is_right(events: list[tuple[str, Any]], jitter: float) -> None:
    world = World(lambda: jitter)
    for event in events:
        world.happens(event)
    world.mood = "well"
    world.arrive()
    world.passes(RECOVERED)
    assert world.listed is not world.drains

    world.drains = True
    world.passes(2 * LOOK_SECONDS)
    assert not world.listed

    world.drains = False
    world.passes(2 * LOOK_SECONDS)
    assert world.listed


@given(st.lists(EVENTS, max_size=40), st.floats(0, 1))
def test_the_registry_is_never_asked_in_a_rush(events: list[tuple[str, Any]], jitter: float) -> None:
    world = World(lambda: jitter)
    for event in events:
        world.happens(event)
        before, begun = world.calls, world.now
        world.passes(1)
        # A forgotten registration is two calls; a new leader, and a change of the drain, are one more each.
        assert world.calls - before <= 8, begun
