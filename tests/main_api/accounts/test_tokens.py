"""Our own tokens: what is in them, how long they are good, and what a change of keys does to them."""

import hashlib
from typing import Any

import pytest

from chassis.errors import Unauthenticated
from main_api.accounts.reading import read
from main_api.accounts.signing import SigningKeys
from main_api.accounts.tokens import LIFETIME_MOST, OwnTokens
from main_api.accounts.verified import Verified
from main_api.errors import TokenExpired
from tests.main_api.accounts.forging import (
    NOW,
    OTHER_SECRET,
    SECRET,
    claims_of,
    decoded,
    ec_key,
    encoded,
    forge,
    header_of,
    pem,
    rsa_key,
    signer,
    without,
)
from tests.main_api.policies.fakes import Clock

KINDS = ("HS256", "RS256", "ES256")


@pytest.fixture(scope="module")
def keys_by_kind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SigningKeys]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "rsa.pem").write_bytes(pem(rsa_key()))
    (folder / "ec.pem").write_bytes(pem(ec_key()))
    return {
        "HS256": SigningKeys.from_secrets([SECRET]),
        "RS256": SigningKeys.from_files([folder / "rsa.pem"]),
        "ES256": SigningKeys.from_files([folder / "ec.pem"]),
    }


def own(clock: Clock | None = None, *secrets: str, **options: Any) -> OwnTokens:
    return OwnTokens(SigningKeys.from_secrets(secrets or (SECRET,)), clock=clock or Clock(NOW), **options)


def signed(tokens: OwnTokens, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """Sign by :data:`SECRET` a token as ``tokens`` would make it, but for what is given; None takes away."""
    like, _ = tokens.issue("u-1", "reader")
    header = {**header_of(like), **(headers or {})}
    made = {**claims_of(like), **claims}
    gone = [name for name, value in made.items() if value is None]
    return forge(header, without(made, *gone), signer("HS256", SECRET.encode()))


def refused(tokens: OwnTokens, token: str) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        tokens.verify(token)
    if not isinstance(caught.value, TokenExpired):
        assert type(caught.value) is Unauthenticated
        assert caught.value.message == "The token is not valid"
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_says_what_it_was_issued_for(kind: str, keys_by_kind: dict[str, SigningKeys]) -> None:
    tokens = OwnTokens(keys_by_kind[kind], clock=Clock(NOW))

    token, expires_in = tokens.issue("u-1", "reader")

    assert expires_in == 3600
    assert tokens.verify(token) == Verified(
        subject="user:u-1",
        scopes=None,
        issued=NOW,
        expires=NOW + 3600,
        revocation_id=hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest(),
        user_id="u-1",
        role="reader",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_is_an_access_token_by_rfc_9068(kind: str, keys_by_kind: dict[str, SigningKeys]) -> None:
    keys = keys_by_kind[kind]
    token, _ = OwnTokens(keys, issuer="gw", audience="api", lifetime=60, clock=Clock(NOW)).issue(
        "u-1", "reader"
    )

    assert header_of(token) == {"typ": "at+jwt", "alg": kind, "kid": keys.current.kid}
    claims = claims_of(token)
    assert len(claims.pop("jti")) == 22
    assert claims == {
        "iss": "gw",
        "aud": "api",
        "sub": "u-1",
        "iat": NOW,
        "exp": NOW + 60,
        "role": "reader",
    }


def test_no_two_tokens_are_the_same() -> None:
    tokens = own()

    assert len({claims_of(tokens.issue("u-1", "reader")[0])["jti"] for _ in range(50)}) == 50


def test_the_moment_of_issue_is_known_to_the_millisecond() -> None:
    tokens = own(Clock(NOW + 0.1239))

    assert tokens.verify(tokens.issue("u-1", "reader")[0]).issued == NOW + 0.123


def test_a_token_is_good_until_its_end_and_then_it_has_expired() -> None:
    clock = Clock(NOW)
    tokens = own(clock, lifetime=60)
    token, _ = tokens.issue("u-1", "reader")

    clock.now = NOW + 59.999
    assert tokens.verify(token).user_id == "u-1"
    clock.now = NOW + 60
    assert isinstance(refused(tokens, token), TokenExpired)


def test_that_it_has_expired_is_told_only_of_a_token_that_was_good() -> None:
    clock = Clock(NOW)
    tokens = own(clock)
    token = signed(tokens)
    others = [
        token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB"),
        signed(tokens, aud="other"),
        signed(tokens, role=None),
        signed(tokens, exp=NOW - 10),
        signed(tokens, exp=NOW + 10 * LIFETIME_MOST),
    ]

    clock.now = NOW + 100 * LIFETIME_MOST

    assert isinstance(refused(tokens, token), TokenExpired)
    for each in others:
        assert not isinstance(refused(tokens, each), TokenExpired)


def test_a_token_of_a_replica_whose_clock_is_a_little_ahead_is_taken() -> None:
    tokens = own()

    assert tokens.verify(signed(tokens, iat=NOW + 30, exp=NOW + 60)).issued == NOW + 30
    refused(tokens, signed(tokens, iat=NOW + 30.001, exp=NOW + 60))
    assert tokens.verify(signed(tokens, nbf=NOW + 30)).user_id == "u-1"
    refused(tokens, signed(tokens, nbf=NOW + 31))


def test_no_token_lasts_longer_than_a_day() -> None:
    tokens = own()

    assert tokens.verify(signed(tokens, exp=NOW + LIFETIME_MOST)).expires == NOW + LIFETIME_MOST
    refused(tokens, signed(tokens, exp=NOW + LIFETIME_MOST + 1))
    refused(tokens, signed(tokens, iat=NOW - LIFETIME_MOST, exp=NOW + 1))
    longest = own(Clock(NOW + 0.3), lifetime=LIFETIME_MOST)
    assert longest.verify(longest.issue("u-1", "reader")[0]).user_id == "u-1"


@pytest.mark.parametrize("lifetime", [0, -1, LIFETIME_MOST + 1])
def test_a_lifetime_out_of_range_is_named(lifetime: int) -> None:
    with pytest.raises(ValueError, match=r"^lifetime: "):
        own(lifetime=lifetime)


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "iat", "exp", "role"])
def test_a_claim_that_is_missing_is_missed(name: str) -> None:
    tokens = own()

    refused(tokens, signed(tokens, **{name: None}))


def test_jti_may_be_missing_for_a_revocation_does_not_need_it() -> None:
    tokens = own()
    one, other = signed(tokens, jti=None), signed(tokens, jti="x")

    assert tokens.verify(one).revocation_id != tokens.verify(other).revocation_id


@pytest.mark.parametrize("audience", ["main-api", ["main-api"], ["other", "main-api"]])
def test_we_must_be_among_the_audience(audience: object) -> None:
    tokens = own()

    assert tokens.verify(signed(tokens, aud=audience)).user_id == "u-1"


@pytest.mark.parametrize(
    "audience", ["Main-Api", "main-api ", ["other"], [], [["main-api"]], {"main-api": 1}, ""]
)
def test_whoever_does_not_mean_us_is_refused(audience: object) -> None:
    tokens = own()

    refused(tokens, signed(tokens, aud=audience))


@pytest.mark.parametrize("issuer", ["Main-Api", "main-api ", "https://issuer.test/"])
def test_a_token_that_is_signed_with_our_key_must_have_our_name_too(issuer: str) -> None:
    tokens = own()

    refused(tokens, signed(tokens, iss=issuer))


def test_the_name_of_a_key_is_short_before_anybody_looks_for_it() -> None:
    token = signed(own(), {"kid": "k" * 128})

    assert read(token).kid == "k" * 128
    with pytest.raises(Unauthenticated):
        read(signed(own(), {"kid": "k" * 129}))


@pytest.mark.parametrize("role", ["", "a" * 129, "a\nb", 1, ["admin"], {"admin": True}, True])
def test_a_role_is_a_short_text(role: object) -> None:
    tokens = own()

    refused(tokens, signed(tokens, role=role))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "AT+JWT", None])
def test_a_token_of_another_type_is_none_of_ours(kind: str | None) -> None:
    tokens = own()
    header = {**header_of(signed(tokens)), "typ": kind}
    header = header if kind else without(header, "typ")

    refused(tokens, forge(header, claims_of(signed(tokens)), signer("HS256", SECRET.encode())))


def test_after_a_change_of_keys_old_tokens_are_good_until_their_key_is_taken_away() -> None:
    clock = Clock(NOW)
    token, _ = own(clock, SECRET).issue("u-1", "reader")
    rotated = own(clock, OTHER_SECRET, SECRET)
    new, _ = rotated.issue("u-1", "reader")

    assert rotated.verify(token).user_id == rotated.verify(new).user_id == "u-1"
    assert header_of(new)["kid"] != header_of(token)["kid"]
    taken_away = own(clock, OTHER_SECRET)
    assert taken_away.verify(new).user_id == "u-1"
    refused(taken_away, token)


def test_keys_may_change_from_one_algorithm_to_another(keys_by_kind: dict[str, SigningKeys]) -> None:
    clock = Clock(NOW)
    keys = SigningKeys([keys_by_kind["ES256"].current, keys_by_kind["RS256"].current])
    token, _ = OwnTokens(keys_by_kind["RS256"], clock=clock).issue("u-1", "reader")

    assert OwnTokens(keys, clock=clock).verify(token).user_id == "u-1"


def test_a_token_with_a_second_form_of_its_signature_is_revoked_with_the_first(
    keys_by_kind: dict[str, SigningKeys],
) -> None:
    tokens = OwnTokens(keys_by_kind["ES256"], clock=Clock(NOW))
    token, _ = tokens.issue("u-1", "reader")
    message, _, signature = token.rpartition(".")
    raw = decoded(signature)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    s = order - int.from_bytes(raw[32:], "big")
    second = f"{message}.{encoded(raw[:32] + s.to_bytes(32, 'big'))}"

    assert second != token
    assert tokens.verify(second).revocation_id == tokens.verify(token).revocation_id


def test_a_token_is_in_no_text_of_what_was_read_from_it() -> None:
    token = signed(own(), jti="canary")

    assert "canary" not in repr(read(token))
    assert token[:40] not in repr(read(token))
    assert token.split(".")[1][:20] not in repr(read(token))
