"""Whose call it is: by one token that is remembered, or one key, and what has become of either since."""

import itertools
import random
import select
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from chassis.errors import Unauthenticated
from main_api.accounts.api_keys import NewKey, new_key
from main_api.accounts.credentials import Credentials
from main_api.accounts.file import Accounts, ApiKey, User
from main_api.accounts.verified import Verified
from main_api.errors import NoCredential, TokenExpired, TokenRevoked, UpstreamUnavailable
from main_api.exchange import Call, Caller, Plan
from tests.main_api.policies.fakes import Clock
from tests.main_api.support import call

NOW = 1_700_000_000.0
ANN = User("u_ann", "ann@example.com", "reader", "$hash")
ROLES = {"reader": frozenset({"buckets:read"}), "admin": frozenset({"buckets:read", "gateway:operate"})}
PLAN = Plan("small")
OTHERS = "https://issuer.example|7"


class Verifier:
    """Knows the tokens that begin with ``ann`` as Ann's, and those with ``other`` as another issuer's."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.expires = NOW + 600

    def verify(self, token: str) -> Verified:
        self.asked.append(token)
        if token.startswith("ann"):
            return Verified("user:u_ann", None, NOW - 10, self.expires, f"id-{token}", "u_ann", "reader")
        if token.startswith("other"):
            scopes = frozenset({"parameters:read"}) if token != "other-without" else None
            return Verified(OTHERS, scopes, NOW - 10, self.expires, f"id-{token}")
        raise Unauthenticated("The token is not valid")


class Revocations:
    """What was revoked, by the names of tokens and the ids of keys."""

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        self.keys: set[str] = set()
        self.current = True

    def revoked(self, token: Verified) -> bool:
        return token.revocation_id in self.tokens

    def key_revoked(self, key_id: str) -> bool:
        return key_id in self.keys


class Gate:
    """Credentials with fakes around them."""

    def __init__(self, *, deny_stale: bool = False, verifier: bool = True) -> None:
        self.clock = Clock(NOW)
        self.verifier = Verifier()
        self.revocations = Revocations()
        self.key: NewKey = new_key()
        self.stored = ApiKey("k_1", "billing", self.key.digest, frozenset({"buckets:read"}), PLAN)
        self.accounts = Accounts((ANN,), (self.stored,), ROLES)
        self.first: list[tuple[ApiKey, Call]] = []
        self.credentials = Credentials(
            lambda: self.accounts,
            self.verifier if verifier else None,
            self.revocations,  # type: ignore[arg-type]
            deny_stale=deny_stale,
            first_used=lambda key, asked: self.first.append((key, asked)),
            clock=self.clock,
        )

    def has(self, *users: User, roles: dict[str, frozenset[str]] | None = None, **key: object) -> None:
        """Change what the accounts file says: its users, roles, or fields of its key."""
        self.accounts = Accounts(users, (replace(self.stored, **key),), ROLES if roles is None else roles)  # type: ignore[arg-type]

    def ask(self, token: str = "ann") -> Caller:
        return self.credentials.identify(shown(Authorization=f"Bearer {token}"))

    def ask_by_key(self) -> Caller:
        return self.credentials.identify(shown(**{"X-API-Key": self.key.text}))


@pytest.fixture
def gate() -> Gate:
    return Gate()


def shown(query: tuple[tuple[str, str], ...] = (), **headers: str) -> Call:
    """Make a call with these headers of the client's."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return replace(call(query=query), client_header=lambda name: lowered.get(name.lower()))


# Tokens.


def test_a_token_says_who_asks_from_where_he_asks(gate: Gate) -> None:
    assert gate.ask() == Caller("192.0.2.1", "user:u_ann", frozenset({"buckets:read"}))
    assert gate.ask("other") == Caller("192.0.2.1", OTHERS, frozenset({"parameters:read"}))
    # Of what nothing is known, nothing is allowed.
    assert gate.ask("other-without").scopes == frozenset()


def test_a_token_is_verified_once_and_each_one_by_itself(gate: Gate) -> None:
    callers = [gate.ask(token) for _ in range(50) for token in ("ann", "ann2", "other")]

    assert gate.verifier.asked == ["ann", "ann2", "other"]
    assert len(set(callers)) == 2


def test_a_token_that_is_refused_is_looked_at_each_time_and_takes_no_room(gate: Gate) -> None:
    gate.ask()
    for number in range(10_001):
        with pytest.raises(Unauthenticated, match="The token is not valid"):
            gate.ask(f"bad{number % 10}")
    gate.ask()

    assert len(gate.verifier.asked) == 10_002
    assert gate.verifier.asked.count("ann") == 1


def test_ten_thousand_are_remembered_and_of_more_the_last_ones_asked(gate: Gate) -> None:
    for number in range(10_000):
        gate.ask(f"ann{number}")
    gate.ask("ann0")
    gate.ask("ann-one-more")
    gate.verifier.asked.clear()

    gate.ask("ann0")
    gate.ask("ann2")
    gate.ask("ann9999")
    assert gate.verifier.asked == []
    gate.ask("ann1")
    assert gate.verifier.asked == ["ann1"]


def test_a_token_that_is_remembered_expires_all_the_same(gate: Gate) -> None:
    gate.ask()
    gate.clock.now = NOW + 599.9
    gate.ask()
    for now in (NOW + 600, NOW + 601, NOW + 1e9):
        gate.clock.now = now
        with pytest.raises(TokenExpired):
            gate.ask()
        with pytest.raises(TokenExpired):
            gate.credentials.verified("ann")

    assert gate.verifier.asked == ["ann"]


def test_a_verifier_that_is_late_lets_no_expired_token_in(gate: Gate) -> None:
    gate.verifier.expires = NOW
    with pytest.raises(TokenExpired):
        gate.ask()


def test_a_token_that_is_remembered_is_revoked_all_the_same(gate: Gate) -> None:
    gate.ask()
    gate.ask("ann2")
    gate.revocations.tokens.add("id-ann")

    with pytest.raises(TokenRevoked):
        gate.ask()
    assert gate.ask("ann2").subject == "user:u_ann"
    gate.revocations.tokens.clear()
    assert gate.ask().subject == "user:u_ann"
    gate.revocations.tokens.add("id-other")
    with pytest.raises(TokenRevoked):
        gate.ask("other")


def removed(gate: Gate) -> None:
    gate.has()


def disabled(gate: Gate) -> None:
    gate.has(replace(ANN, disabled=True))


def logged_out_everywhere(gate: Gate) -> None:
    gate.has(replace(ANN, tokens_after=NOW - 9.999))


@pytest.mark.parametrize("change", [removed, disabled, logged_out_everywhere])
def test_a_user_who_may_not_any_more_may_not_at_once(gate: Gate, change: Callable[[Gate], None]) -> None:
    gate.ask()
    change(gate)

    with pytest.raises(TokenRevoked):
        gate.ask()
    # Of another issuer's users nothing is written here.
    assert gate.ask("other").subject == OTHERS
    gate.has(ANN)
    assert gate.ask().subject == "user:u_ann"
    assert gate.verifier.asked == ["ann", "other"]


def test_a_token_of_the_very_moment_after_which_they_are_good_is_good(gate: Gate) -> None:
    gate.has(replace(ANN, tokens_after=NOW - 10))

    assert gate.ask().subject == "user:u_ann"


def test_the_role_that_a_user_has_now_is_what_counts(gate: Gate) -> None:
    assert gate.ask().scopes == ROLES["reader"]
    gate.has(replace(ANN, role="admin"))
    assert gate.ask().scopes == ROLES["admin"]
    gate.has(ANN, roles={"reader": frozenset({"parameters:read"})})
    assert gate.ask().scopes == {"parameters:read"}
    gate.has(ANN, roles={})
    assert gate.ask().scopes == frozenset()
    assert gate.verifier.asked == ["ann"]


def test_without_a_verifier_no_token_is_taken() -> None:
    gate = Gate(verifier=False)

    with pytest.raises(Unauthenticated, match="Tokens are not accepted here"):
        gate.ask()
    assert gate.ask_by_key().subject == "key:k_1"


def test_the_token_of_a_call_is_given_and_that_of_a_key_is_none(gate: Gate) -> None:
    token = gate.credentials.token(shown(Authorization="Bearer ann"))

    assert token is not None
    assert token.revocation_id == "id-ann"
    assert gate.credentials.token(shown(**{"X-API-Key": gate.key.text})) is None
    assert gate.credentials.token(shown(Authorization=f"apikey {gate.key.text}")) is None
    gate.ask()
    assert gate.verifier.asked == ["ann"]


# Keys.


def test_a_key_says_who_asks_what_it_may_and_how_often(gate: Gate) -> None:
    caller = Caller("192.0.2.1", "key:k_1", frozenset({"buckets:read"}), PLAN)

    assert gate.ask_by_key() == caller
    assert gate.credentials.identify(shown(Authorization=f"ApiKey {gate.key.text}")) == caller
    assert gate.verifier.asked == []


def test_the_first_use_of_a_key_is_told_once(gate: Gate) -> None:
    gate.revocations.keys.add("k_1")
    with pytest.raises(TokenRevoked):
        gate.ask_by_key()
    assert gate.first == []
    gate.revocations.keys.clear()
    for _ in range(3):
        gate.ask_by_key()

    [(key, asked)] = gate.first
    assert (key, asked.request_id) == (gate.stored, "an-id")


@pytest.mark.parametrize(
    "written", ["", "x", "gwk_", "gwk_" + "A" * 43, "gwk_" + "A" * 42, "gwk_" + "A" * 44]
)
def test_a_key_that_nobody_has_is_no_good(gate: Gate, written: str) -> None:
    with pytest.raises(Unauthenticated, match="The API key is not valid") as raised:
        gate.credentials.identify(shown(**{"X-API-Key": written}))

    assert type(raised.value) is Unauthenticated


def test_a_key_is_meant_to_the_letter(gate: Gate) -> None:
    text = gate.key.text
    for wrong in (
        text.upper(),
        text + "\n",
        f" {text}",
        f"{text} ",
        text[:-1],
        f"{text},{text}",
        f"{text}\u200b",
    ):
        if wrong != text:
            with pytest.raises(Unauthenticated, match="not valid"):
                gate.credentials.identify(shown(**{"X-API-Key": wrong}))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"disabled": True}, TokenRevoked),
        ({"disabled": True, "expires": NOW - 1}, TokenRevoked),
        ({"expires": NOW}, TokenExpired),
        ({"expires": NOW - 1}, TokenExpired),
        ({"expires": 0.0}, TokenExpired),
    ],
)
def test_a_key_that_was_good_is_told_what_it_was(
    gate: Gate, change: dict[str, object], error: type[Unauthenticated]
) -> None:
    gate.ask_by_key()
    gate.has(ANN, **change)

    with pytest.raises(error, match="The API key has"):
        gate.ask_by_key()
    gate.has(ANN, expires=NOW + 0.001)
    assert gate.ask_by_key().subject == "key:k_1"


def test_a_key_that_is_revoked_is_so_at_once(gate: Gate) -> None:
    gate.ask_by_key()
    gate.revocations.keys.add("k_1")

    with pytest.raises(TokenRevoked):
        gate.ask_by_key()


def test_a_key_that_is_changed_is_so_at_once(gate: Gate) -> None:
    gate.ask_by_key()
    gate.has(ANN, scopes=frozenset({"gateway:operate"}), plan=None)

    caller = gate.ask_by_key()
    assert (caller.scopes, caller.plan) == ({"gateway:operate"}, None)
    gate.has(ANN, digest=new_key().digest)
    with pytest.raises(Unauthenticated):
        gate.ask_by_key()


# How it is shown.


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
@pytest.mark.parametrize("space", [" ", "  ", "     "])
def test_a_token_is_shown_behind_bearer_in_any_case(gate: Gate, scheme: str, space: str) -> None:
    assert gate.credentials.identify(shown(Authorization=f"{scheme}{space}ann")).subject == "user:u_ann"


@pytest.mark.parametrize("scheme", ["ApiKey", "apikey", "APIKEY", "aPiKeY"])
def test_a_key_may_be_shown_behind_apikey_in_any_case(gate: Gate, scheme: str) -> None:
    shown_key = shown(Authorization=f"{scheme} {gate.key.text}")

    assert gate.credentials.identify(shown_key).subject == "key:k_1"


@pytest.mark.parametrize(
    "written",
    [
        *(
            "",
            " ",
            "Bearer",
            "Bearer ",
            "Bearer  ",
            "ann",
            "Bearerann",
            "Bearer\tann",
            "Bearer: ann",
            "Bearer=ann",
        ),
        *("Bearer ann ann", "Bearer ann ", "Bearer ann,Bearer ann", "Bearer ann, Bearer ann", " Bearer ann"),
        *(
            "Bearer ann\n",
            "Bearer an\x00n",
            "Bearer \xe4nn",
            "Bearer\xa0ann",
            "Bearer ann\x7f",
            "X Bearer ann",
        ),
        *("Basic YTpi", "Digest ann", "Token ann", "JWT ann", "Negotiate ann", "api-key ann", "apikey"),
        *("B\u212aarer ann", "\uff22earer ann", "Bearer \u2028ann", "Bearer ann\u200b"),
    ],
)
def test_what_is_no_scheme_with_one_credential_is_refused_unseen(gate: Gate, written: str) -> None:
    with pytest.raises(Unauthenticated, match="The scheme must be Bearer or ApiKey") as raised:
        gate.credentials.identify(shown(Authorization=written))

    # Something was shown, and it was wrong: that is counted.
    assert not isinstance(raised.value, NoCredential)
    assert gate.verifier.asked == []


def test_two_tokens_behind_one_comma_are_one_text_that_no_verifier_knows(gate: Gate) -> None:
    with pytest.raises(Unauthenticated):
        gate.ask("bad,ann")

    assert gate.verifier.asked == ["bad,ann"]


def test_who_shows_nothing_shows_nothing(gate: Gate) -> None:
    for nothing in (shown(), shown(Cookie="session=ann"), shown(**{"Proxy-Authorization": "Bearer ann"})):
        with pytest.raises(NoCredential):
            gate.credentials.identify(nothing)
        with pytest.raises(NoCredential):
            gate.credentials.token(nothing)


def test_a_key_is_no_token_and_a_token_no_key(gate: Gate) -> None:
    with pytest.raises(Unauthenticated):
        gate.ask(gate.key.text)
    for header in ({"X-API-Key": "ann"}, {"Authorization": "ApiKey ann"}, {"X-API-Key": "Bearer ann"}):
        with pytest.raises(Unauthenticated, match="The API key is not valid"):
            gate.credentials.identify(shown(**header))
    assert gate.verifier.asked == [gate.key.text]


@pytest.mark.parametrize("authorization", ["", "x", "Bearer ann", "ApiKey {key}", "Basic YTpi"])
@pytest.mark.parametrize("key", ["", "x", "{key}"])
def test_two_credentials_are_none_even_if_both_are_good(gate: Gate, authorization: str, key: str) -> None:
    both = {"Authorization": authorization, "X-API-Key": key}
    with pytest.raises(Unauthenticated, match="Two credentials") as raised:
        gate.credentials.identify(
            shown(**{name: each.format(key=gate.key.text) for name, each in both.items()})
        )

    assert not isinstance(raised.value, NoCredential)
    assert gate.verifier.asked == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            "access_token",
            "token",
            "id_token",
            "jwt",
            "bearer",
            "authorization",
            "api_key",
            "apikey",
            "api-key",
        ),
        *("x-api-key", "ACCESS_TOKEN", "Token", "X-API-Key", "apiKey"),
    ],
)
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer ann"}])
def test_a_credential_in_the_query_is_refused_even_beside_a_good_one(
    gate: Gate, name: str, header: dict[str, str]
) -> None:
    for value in ("ann", gate.key.text, ""):
        with pytest.raises(Unauthenticated, match="not into the query") as raised:
            gate.credentials.identify(shown((("limit", "1"), (name, value)), **header))
        assert not isinstance(raised.value, NoCredential)
    assert gate.verifier.asked == []


@pytest.mark.parametrize("name", ["nextToken", "name", "tokens", "prefix", "key", ""])
def test_other_parameters_are_nobodys_credential(gate: Gate, name: str) -> None:
    assert (
        gate.credentials.identify(shown(((name, "token"),), Authorization="Bearer ann")).subject
        == "user:u_ann"
    )


def test_while_nobody_knows_what_was_revoked_nobody_passes_who_must_not() -> None:
    strict, lenient = Gate(deny_stale=True), Gate()
    for gate in (strict, lenient):
        assert gate.ask().subject == "user:u_ann"
        gate.revocations.current = False
    assert lenient.ask_by_key().subject == "key:k_1"
    assert lenient.ask().subject == "user:u_ann"

    for ask in (
        strict.ask,
        strict.ask_by_key,
        strict.credentials.check_current,
        lenient.credentials.check_current,
    ):
        with pytest.raises(UpstreamUnavailable):
            ask()
    # What is known to be bad is told so.
    with pytest.raises(Unauthenticated):
        strict.ask("bad")
    strict.revocations.tokens.add("id-ann")
    with pytest.raises(TokenRevoked):
        strict.ask()
    strict.revocations.current = True
    assert strict.ask_by_key().subject == "key:k_1"


PIECES = st.sampled_from(
    ["Bearer ", "bearer ", "ApiKey ", "ann", "other", ".", " ", ",", "gwk_", "\t", "A" * 43]
)
# Our own words, which what is shown may happen to be a part of.
SCHEMES = "The scheme must be Bearer or ApiKey, with one credential behind it"
WILD = st.lists(PIECES | st.text(st.characters(codec=None), max_size=4), max_size=5).map("".join)


@given(
    authorization=st.none() | WILD, key=st.none() | WILD, query=st.lists(st.tuples(WILD, WILD), max_size=1)
)
@example(authorization=" Bearer ", key=None, query=[])
@hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_shown_it_is_a_caller_or_refused_and_not_repeated(
    gate: Gate, authorization: str | None, key: str | None, query: list[tuple[str, str]]
) -> None:
    headers = {"Authorization": authorization, "X-API-Key": key}
    asked = shown(tuple(query), **{name: each for name, each in headers.items() if each is not None})
    gate.verifier.asked.clear()
    refused: Unauthenticated | None = None
    try:
        caller = gate.credentials.identify(asked)
    except Unauthenticated as error:
        refused = error
    if refused is None:
        assert caller.subject in ("user:u_ann", OTHERS)
        assert key is None
    else:
        told = f"{refused} {refused!r} {refused.headers} {refused.details}".replace(SCHEMES, "")
        assert not [each for each in (authorization, key) if each and len(each) >= 8 and each in told]
    for token in gate.verifier.asked:
        assert token.isascii()
        assert token.isprintable()
        assert " " not in token


# Threads.


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have so few remembered that somebody is always let go."""
    monkeypatch.setattr("main_api.accounts.credentials._REMEMBERED", 3)


@pytest.fixture
def waits() -> list[float]:
    """How long a thread rests between two statements, one of these."""
    return [0]


@pytest.fixture
def switching(waits: list[float]) -> Iterator[None]:
    """Have threads take turns in the middle of any statement of what they share here."""

    def trace(frame: FrameType, _: str, __: Any) -> Any:
        file = frame.f_code.co_filename
        if not (file.endswith("/accounts/credentials.py") or "/cachetools/" in file):
            return None
        frame.f_trace_opcodes = True
        # Any call that lets go of the interpreter would do.
        select.select((), (), (), random.choice(waits))
        return trace

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threading.settrace(trace)
    yield
    threading.settrace(None)  # type: ignore[arg-type]  # as the library itself begins
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("few", "switching")
def test_threads_find_each_caller_as_one_would(gate: Gate) -> None:
    start = threading.Barrier(3)

    def ask(shift: int) -> set[tuple[str, str | None]]:
        start.wait()
        names = itertools.islice(
            itertools.cycle(["ann1", "ann2", "other3", "ann4", "other5"]), shift, shift + 1500
        )
        return {(name, gate.ask(name).subject) for name in names}

    with ThreadPoolExecutor(3) as pool:
        found = set().union(*pool.map(ask, range(3)))

    assert found == {
        *((name, "user:u_ann") for name in ("ann1", "ann2", "ann4")),
        *((name, OTHERS) for name in ("other3", "other5")),
    }


# Threads in step with each other would never meet.
@pytest.mark.parametrize("waits", [[0, 0, 0, 2e-5]])
@pytest.mark.usefixtures("switching")
def test_threads_that_show_a_new_key_at_once_are_one_first_use(gate: Gate) -> None:
    start = threading.Barrier(4)

    def ask(_: int) -> None:
        start.wait()
        gate.ask_by_key()

    for _ in range(10):
        gate.key = new_key()
        gate.stored = replace(gate.stored, id=f"k_{len(gate.first)}", digest=gate.key.digest)
        gate.has(ANN)
        before = len(gate.first)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(4)))
        assert len(gate.first) == before + 1
