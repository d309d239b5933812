"""``nextToken``: opens only where it was sealed, and only untouched."""

import base64
import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from auxiliary_service.errors import InvalidRequest
from auxiliary_service.schemas.next_token import TOKEN_MOST, Listing, NextTokens, _encode

SIGNED = NextTokens("internal-token-0123456789")
LISTING = Listing("parameters", "database", frozenset({"parameters:read"}))
tokens = st.text(min_size=1, max_size=200)
listings = st.builds(
    Listing,
    kind=st.sampled_from(["buckets", "parameters"]),
    prefix=st.none() | st.text(max_size=20),
    scopes=st.frozensets(st.text(max_size=10), max_size=3),
    decrypted=st.booleans(),
)


def refused(sealer: NextTokens, sealed: str, listing: Listing) -> bool:
    try:
        sealer.open(sealed, listing)
    except InvalidRequest as error:
        return [detail["field"] for detail in error.details] == ["nextToken"]
    return False


@given(tokens, listings)
def test_what_was_sealed_opens(token: str, listing: Listing) -> None:
    for sealer in (SIGNED, NextTokens(None)):
        sealed = sealer.seal(token, listing)
        assert sealed is not None
        assert sealed.replace("-", "").replace("_", "").isalnum()
        assert sealer.open(sealed, listing) == token


def test_no_token_stays_none() -> None:
    assert SIGNED.seal(None, LISTING) is None
    assert SIGNED.open(None, LISTING) is None


@given(tokens, st.data(), st.characters())
def test_a_changed_character_is_found(token: str, data: st.DataObject, changed: str) -> None:
    sealed = SIGNED.seal(token, LISTING) or ""
    at = data.draw(st.integers(0, len(sealed) - 1))
    assume(sealed[at] != changed)
    assert refused(SIGNED, sealed[:at] + changed + sealed[at + 1 :], LISTING)


@given(tokens, st.data(), st.text(min_size=1, max_size=5))
def test_what_is_inserted_or_cut_off_is_found(token: str, data: st.DataObject, more: str) -> None:
    sealed = SIGNED.seal(token, LISTING) or ""
    at = data.draw(st.integers(0, len(sealed)))
    assert refused(SIGNED, sealed[:at] + more + sealed[at:], LISTING)
    assert refused(SIGNED, sealed[: at - 1] if at else "", LISTING)


@given(st.text(max_size=300))
def test_what_we_never_sealed_is_refused(text: str) -> None:
    assert refused(SIGNED, text, LISTING)


@given(tokens, listings, listings)
def test_another_listing_is_foreign(token: str, one: Listing, other: Listing) -> None:
    assume(one != other)
    assert refused(SIGNED, SIGNED.seal(token, one) or "", other)
    assert refused(NextTokens(None), NextTokens(None).seal(token, one) or "", other)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "buckets"},
        {"prefix": None},
        {"prefix": "databases"},
        {"scopes": frozenset()},
        {"scopes": frozenset({"parameters:read", "parameters:decrypt"})},
        {"decrypted": True},
    ],
)
def test_everything_of_a_listing_counts(change: dict[str, object]) -> None:
    assert refused(SIGNED, SIGNED.seal("t", LISTING) or "", dataclasses.replace(LISTING, **change))


def test_another_secret_is_foreign() -> None:
    sealed = SIGNED.seal("t", LISTING) or ""
    assert refused(NextTokens("another-token-0123456789"), sealed, LISTING)
    assert refused(NextTokens(None), sealed, LISTING)
    assert refused(SIGNED, NextTokens(None).seal("t", LISTING) or "", LISTING)


def test_an_over_long_token_is_refused_even_if_ours() -> None:
    sealed = SIGNED.seal("x" * TOKEN_MOST, LISTING) or ""
    assert refused(SIGNED, sealed, LISTING)


@given(st.binary(min_size=1, max_size=40))
def test_what_is_no_text_is_refused_even_if_well_sealed(payload: bytes) -> None:
    for sealer in (SIGNED, NextTokens(None)):
        sealed = _encode(sealer._mac(payload, LISTING) + payload)
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            assert refused(sealer, sealed, LISTING)
        else:
            assert sealer.open(sealed, LISTING) == text


def test_the_secret_itself_is_not_the_key() -> None:
    import hashlib
    import hmac

    raw = base64.urlsafe_b64decode((SIGNED.seal("t", LISTING) or "") + "==="[:1])
    bound = b'["parameters", "database", ["parameters:read"], false]\0t'
    assert raw[:32] != hmac.digest(b"internal-token-0123456789", bound, hashlib.sha256)
