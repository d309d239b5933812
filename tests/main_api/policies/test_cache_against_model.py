"""The cache against a slow and obvious model of the rules, over random sequences.

The model never reads a header: it knows the facts that the headers were written from. ``make faults`` has
20,000 sequences of each kind.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from chassis.errors import ServiceError
from main_api.errors import (
    BareServerError,
    BrokenOff,
    CircuitOpen,
    GatewayTimeout,
    Overloaded,
    ServiceRefused,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Caller, Reply
from main_api.policies.cache import Cache, CacheSettings
from main_api.policies.coalescing import Flights
from main_api.policies.invalidation import Invalidation
from main_api.state.memory import MemoryStore
from tests.main_api.policies.fakes import Clock
from tests.main_api.support import call

SEQUENCES = 500
STEPS = 30
BAD = -1  # an argument that is no number

# What fails, and what it means for a copy: it may stand in, it must not, or it is to go.
FAILURES: dict[str, tuple[Callable[[], ServiceError], str]] = {
    "throttled": (lambda: ServiceRefused(503, "aws_throttled", "x", retry_after=1), "stands"),
    "timeout": (lambda: ServiceRefused(504, "aws_timeout", "x"), "stands"),
    "unreachable": (lambda: ServiceRefused(502, "aws_unreachable", "x"), "stands"),
    "error": (lambda: ServiceRefused(502, "aws_error", "x"), "stands"),
    "broken": (BrokenOff, "stands"),
    "bare": (BareServerError, "stands"),
    "late": (GatewayTimeout, "stands"),
    "open": (CircuitOpen, "stands"),
    "full": (Overloaded, "stands"),
    "away": (UpstreamUnavailable, "stands"),
    "denied": (lambda: ServiceRefused(502, "aws_access_denied", "x"), "forbidden"),
    "credentials": (lambda: ServiceRefused(502, "aws_credentials", "x"), "forbidden"),
    "ours": (ServiceError, "forbidden"),
    "gone": (lambda: ServiceRefused(404, "parameter_not_found", "x"), "goes"),
    "invalid": (lambda: ServiceRefused(400, "invalid_request", "x"), "goes"),
    "scope": (lambda: ServiceRefused(403, "forbidden", "x"), "goes"),
}


@dataclass(frozen=True)
class Said:
    """What an answer says of itself; the numbers are seconds."""

    max_age: int | None = None
    s_maxage: int | None = None
    stale_if_error: int | None = None
    no_store: bool = False
    no_cache: bool = False
    private: bool = False
    must_revalidate: bool = False
    vary: str | None = None
    age: int | None = None
    tagged: bool = True

    @property
    def nothing(self) -> bool:
        numbers = (self.max_age, self.s_maxage, self.stale_if_error)
        return numbers == (None,) * 3 and not (
            self.no_store or self.no_cache or self.private or self.must_revalidate
        )


@dataclass(frozen=True)
class Wanted:
    """What a request says."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: int | None = None


@dataclass
class World:
    """The origin as it is, and the clock."""

    clock: Clock = field(default_factory=Clock)
    version: int = 1
    said: Said = field(default_factory=Said)
    failure: str | None = None
    delay: float = 0.0


@dataclass
class Copy:
    version: int
    said: Said
    born: float


# What came: from where (hit, first hand, stood in, an error), which version or code, its Age, what
# `Cache-Status` says of the way, and the tags that the origin was asked with (None: unconditionally).
Outcome = tuple[str, object, int | None, str, tuple[int | None, ...]]


class Model:
    """Section by section; facts in, outcomes out."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.copies: dict[tuple[str, str], Copy] = {}

    def change(self, path: str, worked: bool) -> None:
        """RFC 9111, 4.4."""
        if worked:
            self.copies = {
                key: copy for key, copy in self.copies.items() if not key[0].startswith(path + "?")
            }

    def ask(self, key: tuple[str, str], wanted: Wanted) -> Outcome:
        copy = None if wanted.no_store else self.copies.get(key)
        why = self.why_forward(copy, wanted)
        if why is None:
            assert copy is not None
            return ("hit", copy.version, int(self.age(copy)), "", ())
        if wanted.only_if_cached:
            return ("error", "gateway_timeout", None, "", ())
        tag = copy.version if copy is not None and copy.said.tagged else None
        self.world.clock.now += self.world.delay
        if self.world.failure is not None:
            return self.fail(key, wanted, copy, (tag,))
        return self.take(key, wanted, copy, why, tag)

    def why_forward(self, copy: Copy | None, wanted: Wanted) -> str | None:
        if wanted.no_cache or wanted.no_store:
            return "request"
        if copy is None:
            return "uri-miss"
        if copy.said.no_cache or self.age(copy) >= lifetime(copy.said):
            return "stale"
        if wanted.max_age is not None and self.age(copy) > max(0, wanted.max_age):
            return "request"
        return None

    def age(self, copy: Copy) -> float:
        return max(0.0, self.world.clock.now - copy.born)

    def fail(
        self, key: tuple[str, str], wanted: Wanted, copy: Copy | None, tags: tuple[int | None, ...]
    ) -> Outcome:
        assert self.world.failure is not None
        make, meaning = FAILURES[self.world.failure]
        code = make().code
        if meaning == "goes":
            self.copies.pop(key, None)
        if meaning == "stands" and copy is not None and not (wanted.no_cache or wanted.no_store):
            said = copy.said
            forbidden = said.no_cache or said.must_revalidate or said.s_maxage is not None
            if not forbidden and self.age(copy) <= lifetime(said) + max(0, said.stale_if_error or 0):
                return ("stood in", copy.version, int(self.age(copy)), f"detail={code}", tags)
        return ("error", code, None, "", tags)

    def take(
        self, key: tuple[str, str], wanted: Wanted, copy: Copy | None, why: str, tag: int | None
    ) -> Outcome:
        world = self.world
        confirmed = copy is not None and world.said.tagged and tag == world.version
        said = world.said
        if confirmed and copy is not None:
            # 3.2: a field that the 304 has not stays as it was.
            vary = said.vary if said.vary is not None else copy.said.vary
            said = replace(copy.said if said.nothing else said, vary=vary, age=said.age, tagged=True)
        version = copy.version if confirmed and copy is not None else world.version
        may = not (wanted.no_store or said.no_store or said.private)
        may = (
            may
            and (said.max_age, said.s_maxage) != (None, None)
            and said.vary in (None, "", "X-Internal-Scopes")
        )
        if may:
            self.copies[key] = Copy(version, said, world.clock.now - world.delay - (said.age or 0))
        elif not wanted.no_store:
            self.copies.pop(key, None)
        way = f"fwd={why}; fwd-status={304 if confirmed else 200}" + ("; stored" if may else "")
        # 4.2.3: what is kept has the time on its way in its age, what is passed on says what its sender said.
        old = None if world.said.age is None else int(world.said.age + (world.delay if may else 0))
        return ("first hand", version, old, way, (tag,))


def lifetime(said: Said) -> int:
    return max(0, (said.max_age or 0) if said.s_maxage is None else said.s_maxage)


# From facts to headers, in all the ways to write them.


def argument(chance: random.Random, seconds: int) -> str:
    if seconds == BAD:
        return chance.choice(["abc", "-5", "1.5", '""', ""])
    return chance.choice(["{}", '"{}"', "0{}"]).format(seconds)


def any_case(chance: random.Random, text: str) -> str:
    return chance.choice([text, text.upper(), text.title()])


def list_of(chance: random.Random, numbers: dict[str, int | None], flags: dict[str, bool]) -> list[str]:
    found = [
        f"{any_case(chance, name)}={argument(chance, value)}"
        for name, value in numbers.items()
        if value is not None
    ]
    found += [any_case(chance, name) for name, wanted in flags.items() if wanted]
    if found and chance.random() < 0.3:
        found.append(chance.choice(["public", 'x="no-store, private"', "immutable", "y=max-age"]))
    chance.shuffle(found)
    return found


def headers_of(chance: random.Random, said: Said, version: int) -> tuple[tuple[str, str], ...]:
    no_cache = chance.choice(["no-cache", 'no-cache="x-a"']) if said.no_cache else "no-cache"
    private = chance.choice(["private", 'private="x-a, x-b"']) if said.private else "private"
    revalidate = chance.choice(["must-revalidate", "proxy-revalidate"])
    members = list_of(
        chance,
        {"max-age": said.max_age, "s-maxage": said.s_maxage, "stale-if-error": said.stale_if_error},
        {
            "no-store": said.no_store,
            no_cache: said.no_cache,
            private: said.private,
            revalidate: said.must_revalidate,
        },
    )
    cut = chance.randint(0, len(members))
    fields = [
        ("Cache-Control", chance.choice([", ", ",", " ,\t"]).join(each))
        for each in (members[:cut], members[cut:])
    ]
    found = [(any_case(chance, name), value) for name, value in fields if value]
    if said.vary is not None:
        found.append(("Vary", said.vary))
    if said.age is not None:
        found.append(("Age", str(said.age)))
    if said.tagged:
        found.append(("ETag", f'W/"{version}"'))
    return tuple(found)


def control_of(chance: random.Random, wanted: Wanted) -> str | None:
    flags = {
        "no-cache": wanted.no_cache,
        "no-store": wanted.no_store,
        "only-if-cached": wanted.only_if_cached,
    }
    return ", ".join(list_of(chance, {"max-age": wanted.max_age}, flags)) or None


# The cache itself, seen from outside.


class Real:
    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.clock = Clock(world.clock.now)
        self.cache = Cache(
            CacheSettings(), "s", MemoryStore(1 << 20, self.clock), Flights(self.clock), Invalidation()
        )
        self.tags: list[int | None] = []

    def origin(self, asked: Call) -> Reply:
        world = self.world
        tag = dict(asked.headers).get("If-None-Match")
        self.tags.append(None if tag is None else int(tag.removeprefix('W/"').removesuffix('"')))
        self.clock.now += world.delay
        if world.failure is not None:
            make, _ = FAILURES[world.failure]
            raise make()
        headers = headers_of(self.chance, world.said, world.version)
        if world.said.tagged and tag == f'W/"{world.version}"':
            return Reply(304, headers)
        return Reply(200, headers, str(world.version).encode())

    def call(self, key: tuple[str, str], method: str = "GET", control: str | None = None) -> Call:
        path, _, query = key[0].partition("?")
        return replace(
            call(path, query=[("q", query)]),
            method=method,
            deadline=1e12,
            caller=Caller("192.0.2.1", scopes=frozenset(key[1].split())),
            client_header={"Cache-Control": control}.get,
        )

    def change(self, path: str, worked: bool) -> None:
        self.cache(self.call((f"{path}?z", ""), "PUT"), lambda _: Reply(204 if worked else 409))

    def ask(self, key: tuple[str, str], wanted: Wanted) -> Outcome:
        self.tags = []
        try:
            reply = self.cache(self.call(key, control=control_of(self.chance, wanted)), self.origin)
        except ServiceError as error:
            return ("error", error.code, None, "", tuple(self.tags))
        reply_age = reply.header("Age")
        status = (reply.header("Cache-Status") or "").removeprefix("main-api; ")
        assert reply.status == 200
        kind = "hit" if status.startswith("hit") else "stood in" if "detail=" in status else "first hand"
        parts = [each for each in status.split("; ") if each != "hit" and not each.startswith("ttl=")]
        if kind == "stood in":
            parts = [each for each in parts if not each.startswith("fwd=")]
        assert isinstance(reply.body, bytes)
        found = None if reply_age is None else int(reply_age)
        return (kind, int(reply.body), found, "; ".join(parts), tuple(self.tags))


# Sequences.

KEYS = [("/p?1", ""), ("/p?1", "a"), ("/p?2", ""), ("/pp?1", "")]
TIMES = [0, 1, 5, 5, 10, 60]


def some_said(chance: random.Random, *, ages: bool) -> Said:
    def seldom(share: float) -> bool:
        return chance.random() < share

    return Said(
        max_age=chance.choice([None, BAD, *TIMES]) if seldom(0.9) else None,
        s_maxage=chance.choice([BAD, *TIMES]) if seldom(0.1) else None,
        stale_if_error=chance.choice([BAD, *TIMES]) if seldom(0.7) else None,
        no_store=seldom(0.07),
        no_cache=seldom(0.07),
        private=seldom(0.05),
        must_revalidate=seldom(0.07),
        vary=chance.choice(["*", "Cookie", "", "X-Internal-Scopes", "Accept, Cookie"])
        if seldom(0.15)
        else None,
        age=chance.choice([0, 3, 5, 30]) if ages and seldom(0.3) else None,
        tagged=seldom(0.7),
    )


def some_wanted(chance: random.Random) -> Wanted:
    if chance.random() < 0.6:
        return Wanted()
    return Wanted(
        no_cache=chance.random() < 0.2,
        no_store=chance.random() < 0.2,
        only_if_cached=chance.random() < 0.3,
        max_age=chance.choice([None, BAD, *TIMES]),
    )


def run(seed: int, *, ages: bool) -> set[str]:
    """Run one sequence and compare after each step; give the kinds of outcome that came up."""
    chance = random.Random(seed)
    world = World(said=some_said(chance, ages=ages))
    model, real = Model(world), Real(world, chance)
    trace: list[str] = []
    seen: set[str] = set()
    for _ in range(STEPS):
        step = chance.random()
        if step < 0.2:
            seconds = chance.choice([0.25, 1, 4.75, 5, 5.25, 10, 60, 100, -3])
            world.clock.now += seconds
            real.clock.now += seconds
            trace.append(f"clock {seconds:+}")
        elif step < 0.3:
            world.said = some_said(chance, ages=ages)
            trace.append(f"origin says {world.said}")
        elif step < 0.37:
            world.version += 1
            trace.append(f"origin has version {world.version}")
        elif step < 0.47:
            world.failure = chance.choice([None, *FAILURES])
            trace.append(f"origin fails: {world.failure}")
        elif step < 0.5:
            world.delay = chance.choice([0.0, 0.0, 0.5, 5.0])
            trace.append(f"origin takes {world.delay}")
        elif step < 0.53:
            path, worked = chance.choice(["/p", "/pp"]), chance.random() < 0.7
            model.change(path, worked)
            real.change(path, worked)
            trace.append(f"change of {path}: {worked}")
        else:
            if chance.random() < 0.3:
                world.failure = None
            key, wanted = chance.choice(KEYS), some_wanted(chance)
            expected, found = model.ask(key, wanted), real.ask(key, wanted)
            trace.append(f"{key} {wanted}: {expected}")
            assert found == expected, "\n".join([f"seed {seed}", *trace, f"but it was {found}"])
            assert real.clock.now == world.clock.now
            seen.add(expected[0])
    return seen


@pytest.mark.parametrize("ages", [False, True], ids=["", "with an Age of the service's own"])
def test_no_sequence_tells_it_from_the_model(ages: bool) -> None:
    seen: set[str] = set()

    for seed in range(SEQUENCES):
        seen |= run(seed, ages=ages)

    assert seen == {"hit", "first hand", "stood in", "error"}
