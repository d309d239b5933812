"""Tokens of Cognito, Auth0 and Keycloak: which are taken, and what scopes their claims come to."""

import hashlib
from collections.abc import Iterable
from typing import Any

import pytest
from jwt.algorithms import AllowedPublicKeys

from chassis.errors import Unauthenticated
from main_api.accounts.issuers import OthersTokens, Tokens, granted
from main_api.accounts.signing import SigningKeys
from main_api.accounts.tokens import OwnTokens
from main_api.accounts.verified import Verified
from main_api.errors import TokenExpired, UpstreamUnavailable
from main_api.issuer_fields import Issuer
from tests.main_api.accounts.forging import (
    NOW,
    SECRET,
    ec_key,
    ed_key,
    forge,
    rsa_key,
    signer,
    without,
)
from tests.main_api.policies.fakes import Clock

POOL = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI"
TENANT = "https://tenant.eu.auth0.com/"
REALM = "https://sso.example.com/realms/acme"
CLIENT = "1example23456789"
API = "https://gateway.example.com"

# As Cognito documents its access tokens: no `aud`, no `typ` in the header.
COGNITO: dict[str, Any] = {
    "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "device_key": "eu-central-1_11111111-2222-3333-4444-555555555555",
    "cognito:groups": ["operators", "readers"],
    "iss": POOL,
    "version": 2,
    "client_id": CLIENT,
    "origin_jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "event_id": "64f513be-32db-42b0-b78e-b02127b4f463",
    "token_use": "access",
    "scope": "openid main-api/buckets:read aws.cognito.signin.user.admin",
    "auth_time": int(NOW) - 10,
    "exp": int(NOW) + 3600,
    "iat": int(NOW) - 10,
    "jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "username": "my-test-user",
}
# Its tokens for identities have the client as `aud`, and no `client_id`.
COGNITO_ID = {
    **without(COGNITO, "client_id", "scope", "version", "username"),
    "aud": CLIENT,
    "token_use": "id",
    "cognito:username": "my-test-user",
    "email_verified": True,
    "email": "my-test-user@example.com",
}
# Auth0's own profile, and the one by RFC 9068.
AUTH0: dict[str, Any] = {
    "iss": TENANT,
    "sub": "auth0|6543a1b2c3d4e5f678901234",
    "aud": [API, f"{TENANT}userinfo"],
    "iat": int(NOW),
    "exp": int(NOW) + 86400,
    "scope": "openid profile buckets:read",
    "azp": "my_client_id",
    "permissions": ["buckets:read", "parameters:read", "read:orders"],
}
AUTH0_9068 = {**without(AUTH0, "azp"), "client_id": "my_client_id", "jti": "73WakrfVbNJBaAmhQtEeDv"}
AUTH0_MACHINE = {**AUTH0, "sub": "awZfdIir8YFdGZWkvCejDoUb7SjTDicx@clients", "gty": "client-credentials"}
KEYCLOAK: dict[str, Any] = {
    "exp": int(NOW) + 300,
    "iat": int(NOW),
    "auth_time": int(NOW) - 5,
    "jti": "onrtac:d58f5dc8-fd8f-462b-8a19-716f8f83985b",
    "iss": REALM,
    "aud": ["gateway", "account"],
    "sub": "36fa0f91-f94d-4a0c-afed-6b7d952e47da",
    "typ": "Bearer",
    "azp": "console",
    "session_state": "2a88c258-f73a-4103-b862-e1fbd8f4e04e",
    "acr": "1",
    "allowed-origins": ["https://console.example.com"],
    "realm_access": {"roles": ["offline_access", "default-roles-acme", "operator"]},
    "resource_access": {
        "my.client": {"roles": ["reader"]},
        "account": {"roles": ["manage-account", "view-profile"]},
    },
    "scope": "email profile",
    "sid": "2a88c258-f73a-4103-b862-e1fbd8f4e04e",
    "email_verified": True,
    "preferred_username": "ada",
}


def issuer(name: str = TENANT, **options: Any) -> Issuer:
    made = {"audiences": frozenset((API,)), "jwks": f"{name}/jwks.json", **options}
    return Issuer(issuer=name, **made)


AT_COGNITO = issuer(
    POOL,
    audiences=frozenset((CLIENT,)),
    audience_claim="client_id",
    scopes_claim="cognito:groups",
    scopes_map={"readers": frozenset(("buckets:read", "parameters:read:/database/**"))},
)
AT_KEYCLOAK = issuer(
    REALM,
    audiences=frozenset(("gateway",)),
    scopes_claim="realm_access.roles",
    scopes_map={"operator": frozenset(("gateway:operate",))},
)


class Keys:
    """The key sets of all issuers: by the issuer's name and the key's."""

    def __init__(
        self, keys: dict[str, AllowedPublicKeys] | None = None, error: Exception | None = None
    ) -> None:
        self.keys = {"k1": rsa_key().public_key()} if keys is None else keys
        self.error = error
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, issuer: str) -> "KeysOf":
        return KeysOf(self, issuer)


class KeysOf:
    def __init__(self, keys: Keys, issuer: str) -> None:
        self._keys = keys
        self._issuer = issuer

    def key(self, kid: str | None) -> AllowedPublicKeys | None:
        self._keys.asked.append((self._issuer, kid))
        if self._keys.error:
            raise self._keys.error
        return self._keys.keys.get(kid or "k1")


def others(*issuers: Issuer, keys: Keys | None = None, now: float = NOW) -> OthersTokens:
    return OthersTokens(issuers or (issuer(),), keys or Keys(), clock=Clock(now))


def token(claims: dict[str, Any], header: dict[str, Any] | None = None, number: int = 0) -> str:
    made = {"alg": "RS256", "kid": "k1", **(header or {})}
    return forge(made, claims, signer("RS256", rsa_key(number)))


def refused(verifier: OthersTokens | Tokens, text: str) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(text)
    return caught.value


def is_refused(issuer: Issuer, claims: dict[str, Any]) -> None:
    error = refused(others(issuer), token(claims))
    assert type(error) is Unauthenticated
    assert error.message == "The token is not valid"


def test_an_access_token_of_cognito_is_taken_by_its_client_and_its_groups() -> None:
    text = token(COGNITO)

    assert others(AT_COGNITO).verify(text) == Verified(
        subject=f"{POOL}|aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        scopes=frozenset(("buckets:read", "parameters:read:/database/**")),
        issued=NOW - 10,
        expires=NOW + 3600 + 30,
        revocation_id=hashlib.sha256(text.rpartition(".")[0].encode()).hexdigest(),
    )


def test_an_access_token_of_another_client_of_the_same_pool_is_refused() -> None:
    is_refused(AT_COGNITO, {**COGNITO, "client_id": "another-client"})
    is_refused(AT_COGNITO, without(COGNITO, "client_id"))


def test_custom_scopes_of_cognito_have_its_resource_server_before_them_and_are_mapped() -> None:
    scoped = issuer(
        POOL,
        audiences=frozenset((CLIENT,)),
        audience_claim="client_id",
        scopes_map={"main-api/buckets:read": frozenset(("buckets:read",))},
    )

    assert others(scoped).verify(token(COGNITO)).scopes == {"buckets:read"}


def test_an_identity_token_of_cognito_is_no_access_token_but_may_be_chosen_by_its_aud() -> None:
    is_refused(AT_COGNITO, COGNITO_ID)
    by_aud = issuer(POOL, audiences=frozenset((CLIENT,)), scopes_claim="cognito:groups", scopes_map={})

    assert others(by_aud).verify(token(COGNITO_ID)).scopes == frozenset()
    is_refused(by_aud, COGNITO)


def test_where_there_is_an_aud_it_counts_whatever_stands_in_for_one_that_is_missing() -> None:
    is_refused(AT_COGNITO, {**COGNITO, "aud": "https://another-api.example.com"})
    assert others(AT_COGNITO).verify(token({**COGNITO, "aud": [CLIENT]})).scopes


@pytest.mark.parametrize("claims", [AUTH0, AUTH0_9068, AUTH0_MACHINE])
@pytest.mark.parametrize("kind", ["JWT", "at+jwt"])
def test_a_token_of_auth0_is_taken_in_either_profile(claims: dict[str, Any], kind: str) -> None:
    verified = others(issuer(client="my_client_id")).verify(token(claims, {"typ": kind}))

    assert verified.subject == f"{TENANT}|{claims['sub']}"
    assert verified.scopes == {"buckets:read"}
    assert (verified.user_id, verified.role) == (None, None)


def test_permissions_of_auth0_are_scopes_as_they_are() -> None:
    verified = others(issuer(scopes_claim="permissions")).verify(token(AUTH0))

    assert verified.scopes == {"buckets:read", "parameters:read"}


def test_a_token_of_keycloak_is_taken_by_roles_within_objects() -> None:
    assert others(AT_KEYCLOAK).verify(token(KEYCLOAK, {"typ": "JWT"})).scopes == {"gateway:operate"}


def test_tokens_of_keycloak_before_version_7_have_a_zero_as_nbf() -> None:
    assert others(AT_KEYCLOAK).verify(token({**KEYCLOAK, "nbf": 0})).scopes


@pytest.mark.parametrize("kind", ["ID", "Refresh", "Offline", "Logout"])
def test_what_keycloak_signs_and_is_no_access_token_is_refused(kind: str) -> None:
    is_refused(AT_KEYCLOAK, {**KEYCLOAK, "typ": kind})


def test_a_token_of_keycloak_for_its_account_page_alone_is_not_for_us() -> None:
    is_refused(AT_KEYCLOAK, {**KEYCLOAK, "aud": "account"})


@pytest.mark.parametrize(
    ("claim", "value", "named"),
    [
        ("scope", {"scope": "a  b c"}, ["a", "b", "c"]),
        ("scope", {"scope": ["a", "b"]}, ["a", "b"]),
        ("scope", {"scope": ["a b"]}, ["a b"]),
        ("scope", {"scope": ["a", 1, None, ["b"], {"c": 1}]}, ["a"]),
        ("scope", {"scope": {"a": 1}}, []),
        ("scope", {"scope": 7}, []),
        ("scope", {"scope": None}, []),
        ("scope", {}, []),
        ("scope", {"Scope": "a"}, []),
        ("a.b", {"a.b": "full", "a": {"b": "nested"}}, ["full"]),
        ("a.b", {"a": {"b": "nested"}}, ["nested"]),
        ("a.b", {"a": {"c": "nested"}}, []),
        ("a.b", {"a": ["b"]}, []),
        ("a.b.c", {"a": {"b.c": "x"}}, ["x"]),
        ("a.b.c", {"a.b": {"c": "x"}}, ["x"]),
        ("a.b.c", {"a": "y", "a.b": {"c": "x"}}, ["x"]),
        ("resource_access.my.client.roles", KEYCLOAK, ["reader"]),
        ("https://example.com/roles", {"https://example.com/roles": ["a"]}, ["a"]),
        (".", {"": {"": "a"}}, ["a"]),
        ("." * 200, {"": {"": {"": {"": {}}}}}, []),
    ],
)
def test_a_claim_is_found_by_its_name_and_else_within_objects(
    claim: str, value: dict[str, Any], named: list[str]
) -> None:
    known = ("a", "b", "c", "a b", "full", "nested", "x", "y", "reader")
    mapped = {name: frozenset((f"scope of {name}",)) for name in known}

    found = granted(value, issuer(scopes_claim=claim, scopes_map=mapped))

    assert found == {f"scope of {name}" for name in named}


def test_without_a_map_what_is_no_scope_of_ours_counts_nothing() -> None:
    text = (
        "openid buckets:read BUCKETS:READ parameters:read:/a/** parameters:read:/../** gateway:* parameters"
    )

    assert granted({"scope": text}, issuer()) == {"buckets:read", "parameters:read:/a/**"}


def test_with_a_map_a_value_that_looks_like_a_scope_is_none() -> None:
    mapped = issuer(scopes_map={"reader": frozenset(("buckets:read",))})

    assert granted({"scope": "gateway:operate"}, mapped) == frozenset()


def test_a_token_without_scopes_is_good_and_may_do_nothing() -> None:
    assert others().verify(token(without(AUTH0, "scope"))).scopes == frozenset()


@pytest.mark.parametrize(
    "claims",
    [
        {"azp": "other"},
        {"azp": None},
        {"azp": ["my_client_id"]},
        {"client_id": "other"},
        {"azp": "other", "client_id": "my_client_id"},
    ],
)
def test_a_token_that_was_issued_to_another_client_is_refused(claims: dict[str, Any]) -> None:
    is_refused(issuer(client="my_client_id"), {**AUTH0, **claims})


def test_a_token_that_names_no_client_is_refused_where_one_is_wanted() -> None:
    is_refused(issuer(client="my_client_id"), without(AUTH0, "azp"))


@pytest.mark.parametrize(
    "aud", [None, [], "", "https://other.example.com", [API + "/"], {"a": API}, [[API]], 1]
)
def test_a_token_for_another_audience_is_refused(aud: object) -> None:
    is_refused(issuer(), {**AUTH0, "aud": aud} if aud is not None else without(AUTH0, "aud"))


@pytest.mark.parametrize("name", ["iss", "sub", "exp", "iat"])
def test_a_claim_that_is_missing_is_missed(name: str) -> None:
    is_refused(issuer(), without(AUTH0, name))


def test_the_clocks_of_others_may_be_half_a_minute_off() -> None:
    late, early = token({**AUTH0, "iat": NOW - 60, "exp": NOW}), token({**AUTH0, "iat": NOW, "exp": NOW + 60})

    assert others(now=NOW + 29.9).verify(late).expires == NOW + 30
    assert isinstance(refused(others(now=NOW + 30), late), TokenExpired)
    assert others(now=NOW - 30).verify(early)
    assert type(refused(others(now=NOW - 30.1), early)) is Unauthenticated


def test_an_expired_token_with_another_fault_is_only_not_valid() -> None:
    late = others(now=NOW + 10 * 86400)

    assert isinstance(refused(late, token(AUTH0)), TokenExpired)
    assert type(refused(late, token(AUTH0, number=1))) is Unauthenticated
    assert type(refused(late, token({**AUTH0, "aud": "other"}))) is Unauthenticated


def test_no_token_may_last_longer_than_the_issuer_is_allowed() -> None:
    short = issuer(max_lifetime=300)

    assert others(short).verify(token({**AUTH0, "exp": NOW + 300}))
    is_refused(short, {**AUTH0, "exp": NOW + 301})
    is_refused(issuer(), {**AUTH0, "exp": NOW + 86401})


def test_the_key_is_the_issuers_of_that_name() -> None:
    keys = Keys({"k1": rsa_key().public_key(), "k2": rsa_key(1).public_key()})
    verifier = others(issuer(), AT_KEYCLOAK, keys=keys)

    verifier.verify(token(KEYCLOAK))
    verifier.verify(token(AUTH0, {"kid": "k2"}, number=1))
    refused(verifier, token(AUTH0, {"kid": "k2"}))
    refused(verifier, token(AUTH0, {"kid": "k3"}))

    assert keys.asked == [(REALM, "k1"), (TENANT, "k2"), (TENANT, "k2"), (TENANT, "k3")]


def test_a_token_that_is_not_for_us_does_not_have_the_keys_asked_for() -> None:
    keys = Keys()
    verifier = others(issuer(client="my_client_id"), keys=keys)

    for claims in ({**AUTH0, "aud": "other"}, {**AUTH0, "azp": "other"}, {**AUTH0, "iss": "https://other/"}):
        refused(verifier, token(claims))

    assert keys.asked == []


def test_while_no_keys_are_known_nobody_is_called_a_stranger() -> None:
    with pytest.raises(UpstreamUnavailable):
        others(keys=Keys(error=UpstreamUnavailable("The keys are not known"))).verify(token(AUTH0))


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS384", rsa_key),
        ("RS512", rsa_key),
        ("PS256", rsa_key),
        ("ES256", ec_key),
        ("EdDSA", ed_key),
    ],
)
def test_every_algorithm_that_may_be_configured_is_checked(algorithm: str, key: Any) -> None:
    verifier = others(issuer(algorithm=algorithm), keys=Keys({"k1": key().public_key()}))
    header = {"alg": algorithm, "kid": "k1"}

    assert verifier.verify(forge(header, AUTH0, signer(algorithm, key()))).scopes == {"buckets:read"}
    refused(verifier, forge(header, AUTH0, signer(algorithm, key(1))))


def both(issuers: Iterable[Issuer] = (issuer(),)) -> tuple[Tokens, OwnTokens]:
    own = OwnTokens(SigningKeys.from_secrets([SECRET]), clock=Clock(NOW))
    return Tokens(own, others(*issuers)), own


def test_each_token_is_verified_by_whoever_it_says_it_is_from() -> None:
    tokens, own = both()

    assert tokens.verify(own.issue("u-1", "reader")[0]).subject == "user:u-1"
    assert tokens.verify(token(AUTH0)).subject.startswith(TENANT)
    refused(tokens, token({**AUTH0, "iss": "main-api", "aud": "main-api"}))
    refused(tokens, token({**AUTH0, "iss": "https://unknown.example.com/"}))


def test_without_others_or_without_our_own_there_are_no_such_tokens() -> None:
    own = OwnTokens(SigningKeys.from_secrets([SECRET]), clock=Clock(NOW))
    text, _ = own.issue("u-1", "reader")

    assert Tokens(own, None).verify(text).user_id == "u-1"
    refused(Tokens(own, None), token(AUTH0))
    refused(Tokens(None, others()), text)
    refused(Tokens(None, None), text)


def test_nobody_else_may_have_our_name() -> None:
    own = OwnTokens(SigningKeys.from_secrets([SECRET]), issuer=TENANT)

    with pytest.raises(ValueError, match=TENANT):
        Tokens(own, others())
