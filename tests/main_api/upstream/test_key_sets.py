"""Key sets: what is taken of one, when it is asked for, and that no issuer holds up a request."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from urllib3 import exceptions as urllib3_errors

from main_api.errors import UpstreamUnavailable
from main_api.issuer_fields import ALGORITHMS, Issuer
from main_api.upstream import key_sets
from main_api.upstream.key_sets import (
    ASKED_SECONDS,
    BODY_MOST,
    FETCH_SECONDS,
    KEYS_MOST,
    WAITING_MOST,
    Fetch,
    KeySet,
    KeySets,
    KeysFailed,
    usable,
)
from tests.main_api.accounts.forging import ec_key, ed_key, encoded, jwk, rsa_key
from tests.main_api.policies.fakes import Clock
from tests.main_api.support import Answer, Upstream

URL = "https://issuer.test/canary-path/jwks.json?token=canary"


def body(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def names(content: bytes, algorithm: str = "RS256") -> set[str | None]:
    return set(usable(content, algorithm))


def fails(content: bytes, algorithm: str = "RS256") -> str:
    with pytest.raises(KeysFailed) as caught:
        usable(content, algorithm)
    return str(caught.value)


# What is taken of a set.


def test_the_keys_of_a_set_are_found_by_their_names() -> None:
    found = usable(body(jwk(rsa_key(0), "a"), jwk(rsa_key(1), "b")), "RS256")

    assert {name: numbers(key) for name, key in found.items()} == {
        "a": rsa_key(0).public_key().public_numbers(),
        "b": rsa_key(1).public_key().public_numbers(),
    }


def numbers(key: object) -> object:
    assert isinstance(key, RSAPublicKey | EllipticCurvePublicKey)
    return key.public_numbers()


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        *((name, rsa_key()) for name in ALGORITHMS if name[:2] in ("RS", "PS")),
        ("ES256", ec_key()),
        ("ES384", ec_key(curve=ec.SECP384R1)),
        ("EdDSA", ed_key()),
    ],
)
def test_each_algorithm_takes_keys_of_its_kind_alone(algorithm: str, key: Any) -> None:
    every = [rsa_key(), ec_key(), ec_key(curve=ec.SECP384R1), ec_key(curve=ec.SECP521R1), ed_key()]
    content = body(*(jwk(each, "this" if each is key else f"k{n}") for n, each in enumerate(every)))

    assert names(content, algorithm) == {"this"}


def test_a_set_as_keycloak_gives_it_has_a_key_for_encryption_too() -> None:
    content = body(
        jwk(rsa_key(1), "enc", use="enc", alg="RSA-OAEP", x5c=["MIIB"], x5t="x"),
        jwk(rsa_key(0), "sig", alg="RS256", x5c=["MIIB"], **{"x5t#S256": "y"}),
    )

    assert names(content) == {"sig"}


@pytest.mark.parametrize(
    "key",
    [
        jwk(rsa_key(), "x", use="enc"),
        jwk(rsa_key(), "x", use=["sig"]),
        jwk(rsa_key(), "x", alg="RS512"),
        jwk(rsa_key(), "x", alg="HS256"),
        jwk(rsa_key(), "x", alg=["RS256"]),
        jwk(rsa_key(), "x", kty="oct"),
        jwk(rsa_key(), "x", kty=["RSA"]),
        jwk(rsa_key(bits=1024), "x"),
        jwk(rsa_key(), "x", e=None),
        jwk(rsa_key(), "x", n=""),
        jwk(rsa_key(), "x", n=1),
        jwk(rsa_key(), "x", n="!!!!"),
        jwk(rsa_key(), "x", n=["AQAB"]),
        jwk(rsa_key(), "x", n=encoded(b"\xff" * 1025)),
        jwk(rsa_key(), "x", n=encoded(b"\xff" * 200_000)),
        jwk(rsa_key(), "x", e=encoded(b"\1")),
        jwk(rsa_key(), "x", e=encoded(b"\0")),
        jwk(rsa_key(), "x", e=encoded(b"\2")),
        jwk(rsa_key(), "x", e=encoded(b"\1" * 9)),
        jwk(ec_key(), "x"),
        {"kty": "oct", "kid": "x", "k": encoded(b"x" * 32), "alg": "HS256"},
        {"kty": "oct", "kid": "x", "k": encoded(b"x" * 32), "alg": "RS256"},
        {"kty": "RSA", "kid": "x"},
        {},
        [],
        None,
        1,
        "RSA",
    ],
)
def test_a_key_of_no_use_is_passed_over(key: object) -> None:
    assert names(body(key, jwk(rsa_key(), "good"))) == {"good"}
    assert fails(body(key)) == "none of its 1 keys is of use with RS256"


@pytest.mark.parametrize(
    "key",
    [
        jwk(ec_key(), "x", crv="P-384"),
        jwk(ec_key(), "x", crv=None),
        jwk(ec_key(), "x", crv="secp256k1"),
        jwk(ec_key(), "x", y=encoded(b"\1" * 32)),
        jwk(ec_key(), "x", x=encoded(b"\0" * 32), y=encoded(b"\0" * 32)),
        jwk(ec_key(), "x", x=encoded(b"\1" * 31)),
        jwk(ec_key(curve=ec.SECP384R1), "x"),
        jwk(ec_key(curve=ec.SECP384R1), "x", crv="P-256"),
    ],
)
def test_a_point_that_is_on_no_such_curve_is_no_key(key: object) -> None:
    assert names(body(key, jwk(ec_key(), "good")), "ES256") == {"good"}


def test_of_a_private_key_only_the_public_half_is_looked_at() -> None:
    private = {"d": "AQAB", "p": "!", "q": 1, "dp": None, "dq": [], "qi": {}}

    [key] = usable(body(jwk(rsa_key(), "a", **private)), "RS256").values()

    assert isinstance(key, RSAPublicKey)


def test_a_key_without_a_name_counts_where_there_is_no_other() -> None:
    assert names(body(jwk(rsa_key(), None))) == {None}
    assert names(body(jwk(rsa_key(), None), jwk(ec_key(), "a"))) == {None}
    assert names(body(jwk(rsa_key(), None), jwk(rsa_key(1), "a"))) == {"a"}
    assert "none of its 2 keys" in fails(body(jwk(rsa_key(), None), jwk(rsa_key(1), None)))
    assert names(body(jwk(rsa_key(), 7))) == {None}  # type: ignore[arg-type]  # as if it had none


def test_of_two_with_the_same_name_the_first_counts() -> None:
    found = usable(body(jwk(rsa_key(0), "a"), jwk(rsa_key(1), "a")), "RS256")

    assert numbers(found["a"]) == rsa_key(0).public_key().public_numbers()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b"null",
        b'{"keys": {}}',
        b'{"keys": null}',
        b'{"keys": "x"}',
        b'{"keys": []}',
        b'{"keys": [NaN]}',
        b"[" * 200_000,
        b'{"keys":' + b"[" * 200_000,
        b"\xff\xfe{\0}\0",
        b"<html></html>",
        b"9" * 5000,
        body(*[jwk(rsa_key(), f"k{n}") for n in range(KEYS_MOST + 1)]),
    ],
)
def test_what_is_no_set_with_a_key_of_use_is_a_failure(content: bytes) -> None:
    assert fails(content)


def test_as_many_keys_as_are_allowed_are_taken() -> None:
    assert len(names(body(*[jwk(rsa_key(), f"k{n}") for n in range(KEYS_MOST)]))) == KEYS_MOST


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(("RSA", "EC", "AQAB")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = st.sampled_from(("kty", "use", "alg", "kid", "n", "e", "crv", "x", "y", "d"))


@given(changes=st.lists(st.dictionaries(MEMBERS, JSON, max_size=2), max_size=3), ec=st.booleans())
@hypothesis_settings(max_examples=60, deadline=None)
def test_any_set_is_taken_or_fails(changes: list[dict[str, Any]], ec: bool) -> None:
    good = jwk(ec_key() if ec else rsa_key(), "a")
    content = body(*({**good, **change} for change in changes))

    try:
        found = usable(content, "ES256" if ec else "RS256")
    except KeysFailed:
        return
    assert found


# How it is fetched.


def fetched(answer: Answer | Exception) -> tuple[bytes, Upstream]:
    upstream = Upstream(answer)
    return Fetch(URL, upstream)(), upstream


def not_fetched(answer: Answer | Exception) -> str:
    with pytest.raises(KeysFailed) as caught:
        fetched(answer)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_what_is_asked_is_the_address_on_a_new_connection_within_five_seconds() -> None:
    content, upstream = fetched(Answer(b'{"keys":[]}'))

    [request] = upstream.sent
    [(connect, read)] = upstream.timeouts
    assert content == b'{"keys":[]}'
    assert (request.method, request.url) == ("GET", URL)
    assert upstream.headers == {"accept": "application/json", "connection": "close"}
    assert 0 < connect <= 2
    assert 4 < read <= 5


def test_the_certificate_is_looked_at() -> None:
    said: list[Any] = []

    class Asked(Upstream):
        def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
            said.append(options.get("verify", True))
            return super().send(request, *args, **options)

    Fetch(URL, Asked(Answer(b"{}")))()

    assert said == [True]


@pytest.mark.parametrize("status", [201, 204, 301, 302, 304, 307, 401, 404, 429, 500, 503])
def test_anything_but_200_is_a_failure_and_no_redirect_is_followed(status: int) -> None:
    upstream = Upstream(Answer(b"{}", status).with_headers(Location="http://169.254.169.254/"))

    with pytest.raises(KeysFailed, match=f"^status {status}$"):
        Fetch(URL, upstream)()

    assert len(upstream.sent) == 1


def test_an_answer_is_read_to_a_bound_and_closed() -> None:
    upstream = Upstream(Answer(b" " * (BODY_MOST + 1)))

    with pytest.raises(KeysFailed, match=f"more than {BODY_MOST} bytes"):
        Fetch(URL, upstream)()

    assert upstream.raws[0].closed
    assert len(fetched(Answer(b" " * BODY_MOST))[0]) == BODY_MOST


def test_an_answer_that_breaks_off_is_a_failure() -> None:
    assert "its end is missing" in not_fetched(Answer(b"{}").with_headers(Content_Length="3"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (requests.ConnectionError("canary"), "broken off: ConnectionError"),
        (requests.ReadTimeout("canary"), "no answer in time"),
        (TimeoutError("canary"), "no answer in time"),
        (
            urllib3_errors.ProtocolError("canary", ConnectionResetError("canary")),
            "broken off: ConnectionResetError",
        ),
        (requests.exceptions.SSLError("canary"), "broken off: SSLError"),
        (requests.exceptions.InvalidURL("canary"), "broken off: InvalidURL"),
        (OSError("canary"), "broken off: OSError"),
    ],
)
def test_a_failure_says_what_it_was_and_not_what_was_asked(error: Exception, said: str) -> None:
    assert not_fetched(error) == said


def test_its_end_is_that_of_its_connections() -> None:
    closed: list[bool] = []

    class Closing(Upstream):
        def close(self) -> None:
            closed.append(True)

    Fetch(URL, Closing(Answer())).close()

    assert closed == [True]


# When it is fetched.


class Issuing:
    """An issuer whose answer is ``says``; it may be told to take its time."""

    def __init__(self, says: bytes | Exception = b"") -> None:
        self.says = says or body(jwk(rsa_key(), "a"))
        self.asked = 0
        self.began = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self) -> bytes:
        self.asked += 1
        self.began.release()
        assert self.go_on.wait(5)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


class Made:
    """A key set, its issuer and its clock."""

    def __init__(self, says: bytes | Exception = b"", wait: float = 0.01, random: float = 0.5) -> None:
        self.issuer = Issuing(says)
        self.clock = Clock()
        self.keys = KeySet(
            "https://issuer.test/",
            "RS256",
            self.issuer,
            close=self.issuer.go_on.set,
            wait=wait,
            clock=self.clock,
            random=lambda: random,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        self.keys.start()
        try:
            assert self.issuer.began.acquire(timeout=5)
            yield
        finally:
            self.keys.stop()


def unknown(keys: KeySet, kid: str | None = "a") -> UpstreamUnavailable:
    with pytest.raises(UpstreamUnavailable) as caught:
        keys.key(kid)
    return caught.value


def test_a_key_is_found_by_its_name_once_the_set_has_come() -> None:
    made = Made()
    made.keys.refresh()

    assert numbers(made.keys.key("a")) == rsa_key().public_key().public_numbers()
    assert numbers(made.keys.key(None)) == rsa_key().public_key().public_numbers()


def test_without_a_name_there_must_be_only_one() -> None:
    made = Made(body(jwk(rsa_key(0), "a"), jwk(rsa_key(1), "b")))
    made.keys.refresh()

    assert made.keys.key(None) is None


def test_the_only_key_without_a_name_is_found_by_any() -> None:
    made = Made(body(jwk(rsa_key(), None)))
    made.keys.refresh()

    assert made.keys.key("a") is not None
    assert made.keys.key(None) is not None


@pytest.mark.parametrize("kid", ["a", None])
def test_before_the_first_set_the_keys_are_not_known(kid: str | None) -> None:
    made = Made(KeysFailed("status 500"))
    made.keys.refresh()

    error = unknown(made.keys, kid)

    assert error.message == "The keys of the token's issuer are not known yet"
    assert "issuer.test" not in error.message
    assert "issuer.test" in error.cause


@pytest.mark.parametrize(("random", "factor"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
def test_it_is_fetched_every_quarter_of_an_hour_and_not_by_all_at_once(random: float, factor: float) -> None:
    assert Made(random=random).keys.refresh() == pytest.approx(FETCH_SECONDS * factor)


def test_after_failures_it_is_fetched_less_and_less_often_and_then_as_before() -> None:
    made = Made(KeysFailed("status 500"))

    assert [made.keys.refresh() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    made.issuer.says = body(jwk(rsa_key(), "a"))
    assert made.keys.refresh() == FETCH_SECONDS
    made.issuer.says = KeysFailed("status 500")
    assert made.keys.refresh() == 1


@pytest.mark.parametrize(
    "says",
    [KeysFailed("status 500"), b"nonsense", body(), body(jwk(ec_key())), RuntimeError("a fault of ours")],
)
def test_the_last_good_set_is_used_on_whatever_comes(says: bytes | Exception) -> None:
    made = Made()
    made.keys.refresh()
    made.issuer.says = says

    assert made.keys.refresh() == 1
    assert made.keys.key("a") is not None


def test_a_key_that_the_issuer_has_taken_away_is_gone() -> None:
    made = Made()
    made.keys.refresh()
    made.issuer.says = body(jwk(rsa_key(1), "b"))
    made.keys.refresh()

    assert made.keys.key("a") is None
    assert made.keys.key("b") is not None


def test_an_outage_is_one_line_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    made = Made()
    with caplog.at_level(logging.INFO, key_sets.__name__):
        made.keys.refresh()
        for says in (KeysFailed("status 500"), KeysFailed("no answer in time"), KeysFailed("status 500")):
            made.issuer.says = says
            made.keys.refresh()
        made.issuer.says = body(jwk(rsa_key(), "a"))
        made.keys.refresh()
        made.keys.refresh()

    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "https://issuer.test/: its keys do not come: status 500; its last ones are used on"),
        ("INFO", "https://issuer.test/: its keys come again"),
    ]


def test_an_issuer_that_never_came_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    Made(KeysFailed("status 500")).keys.refresh()

    assert [each.getMessage() for each in caplog.records] == [
        "https://issuer.test/: its keys do not come: status 500; none are known"
    ]


def eventually(condition: Callable[[], bool]) -> bool:
    until = monotonic() + 5
    while not condition():
        if monotonic() > until:
            return False
        threading.Event().wait(0.001)
    return True


def test_started_it_is_fetched_at_once_and_then_not_again() -> None:
    made = Made()
    with made.running():
        assert eventually(lambda: made.keys._keys is not None)
        assert made.keys.key("a") is not None
        assert not made.issuer.began.acquire(timeout=0.02)


def test_the_first_requests_wait_for_the_first_set() -> None:
    made = Made(wait=5)
    made.issuer.go_on.clear()
    with made.running():
        asked = in_thread(lambda: made.keys.key("a"))
        assert eventually(lambda: made.keys._waiting == 1)
        made.issuer.go_on.set()
        assert asked() is not None


def test_an_unknown_name_has_it_fetched_now_and_finds_the_new_key() -> None:
    made = Made(wait=5)
    with made.running():
        assert eventually(lambda: made.keys._keys is not None)
        made.issuer.says = body(jwk(rsa_key(0), "a"), jwk(rsa_key(1), "new"))

        assert made.keys.key("new") is not None
        assert made.issuer.asked == 2


def test_unknown_names_have_it_fetched_once_in_half_a_minute() -> None:
    made = Made(wait=5)
    with made.running():
        assert eventually(lambda: made.keys._keys is not None)
        for name in ("x", "y", "z"):
            assert made.keys.key(name) is None
        assert made.issuer.asked == 2

        made.clock.now += ASKED_SECONDS - 0.001
        assert made.keys.key("x") is None
        assert made.issuer.asked == 2

        made.clock.now += 0.001
        assert made.keys.key("x") is None
        assert made.issuer.asked == 3


def test_a_known_name_asks_for_nothing_and_waits_for_nobody() -> None:
    made = Made(wait=5)
    with made.running():
        assert eventually(lambda: made.keys._keys is not None)
        made.issuer.go_on.clear()
        asked = in_thread(lambda: made.keys.key("x"))
        assert made.issuer.began.acquire(timeout=5)

        began = monotonic()
        assert made.keys.key("a") is not None
        assert monotonic() - began < 1
        made.issuer.go_on.set()
        assert asked() is None
        assert made.issuer.asked == 2


def test_only_a_few_wait_and_all_for_the_same_answer() -> None:
    made = Made(wait=5)
    with made.running():
        assert eventually(lambda: made.keys._keys is not None)
        made.issuer.go_on.clear()
        made.issuer.says = body(jwk(rsa_key(1), "new"))
        waiting = [in_thread(lambda: made.keys.key("new")) for _ in range(WAITING_MOST)]
        assert eventually(lambda: made.keys._waiting == WAITING_MOST)

        began = monotonic()
        assert made.keys.key("new") is None
        assert monotonic() - began < 1
        made.issuer.go_on.set()
        assert all(each() is not None for each in waiting)
        assert made.keys._waiting == 0
        assert made.issuer.asked == 2


def test_nobody_waits_longer_than_told() -> None:
    made = Made(wait=0.02)
    made.issuer.go_on.clear()
    with made.running():
        began = monotonic()
        unknown(made.keys)
        assert 0.015 < monotonic() - began < 1


def test_during_an_outage_unknown_names_do_not_have_it_fetched_all_the_time() -> None:
    made = Made(wait=5)
    with made.running():
        assert eventually(lambda: made.keys._keys is not None)
        made.issuer.says = KeysFailed("status 500")
        for _ in range(20):
            assert made.keys.key("x") is None
        assert made.issuer.asked == 2
        assert made.keys.key("a") is not None


def test_stopping_ends_whoever_waits_and_the_fetch_that_is_under_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = Made(wait=5)
    made.issuer.says = KeysFailed("closed")
    made.issuer.go_on.clear()
    made.keys.start()
    assert made.issuer.began.acquire(timeout=5)
    asked = in_thread(lambda: unknown(made.keys))
    assert eventually(lambda: made.keys._waiting == 1)
    # Whoever waits is let go first: ending the fetch may take a moment.
    ended: list[object] = []
    made.keys._close = lambda: (ended.append(asked()), made.issuer.go_on.set())

    began = monotonic()
    made.keys.stop()

    assert ended
    assert monotonic() - began < 2
    assert not made.keys._thread.is_alive()
    # That it was closed under it is no fault of the issuer's.
    assert caplog.records == []


def test_one_that_was_never_started_can_be_stopped() -> None:
    Made().keys.stop()


def in_thread(work: Callable[[], object]) -> Callable[[], object]:
    """Begin ``work``; what this gives waits for it and gives what it gave."""
    made: list[object] = []
    thread = threading.Thread(target=lambda: made.append(work()))
    thread.start()

    def result() -> object:
        thread.join(5)
        return made[0]

    return result


# All issuers.


class Fetched:
    """What a :class:`Fetch` is, without a connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.closed = False

    def __call__(self) -> bytes:
        if "slow" in self.url:
            raise KeysFailed("no answer in time")
        return body(jwk(ec_key() if "//es" in self.url else rsa_key(), "a"))

    def close(self) -> None:
        self.closed = True


def test_each_issuer_has_a_set_of_its_own_and_its_own_algorithm() -> None:
    made: list[Fetched] = []

    def fetch(url: str) -> Any:
        made.append(Fetched(url))
        return made[-1]

    named = {"https://rs.test/": "RS256", "https://es.test/": "ES256", "https://slow.test/": "RS256"}
    issuers = [
        Issuer(issuer=name, audiences=frozenset("a"), jwks=f"{name}jwks", algorithm=algorithm)
        for name, algorithm in named.items()
    ]
    sets = KeySets(issuers, fetch)

    sets.start()
    try:
        assert isinstance(sets("https://rs.test/").key("a"), RSAPublicKey)
        assert isinstance(sets("https://es.test/").key("a"), EllipticCurvePublicKey)
        assert eventually(lambda: sets("https://slow.test/")._failing)
        unknown(sets("https://slow.test/"))
    finally:
        sets.stop()

    assert [each.url for each in made] == [f"{name}jwks" for name in named]
    assert all(each.closed for each in made)
