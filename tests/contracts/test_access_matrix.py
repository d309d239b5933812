"""Every route, with every kind of credential, of every role: who may, and who is told what."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from main_api.upstream.key_sets import KeySets
from tests.contracts.accounts import PASSWORD, ROLES, Issuer, People, write

MOMENT = datetime(2023, 12, 1, 12, tzinfo=UTC)
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")

# What each rule takes: a scope, ANY credential, or NOBODY's.
ANY, NOBODY = "any", None
NEEDED = {
    "/": NOBODY,
    "/docs": NOBODY,
    "/openapi.json": NOBODY,
    "/console/page.css": NOBODY,
    "/console/page.js": NOBODY,
    "/console/docs.js": NOBODY,
    "/docs/index.css": NOBODY,
    "/docs/swagger-ui.css": NOBODY,
    "/docs/swagger-ui-bundle.js": NOBODY,
    "/docs/favicon-32x32.png": NOBODY,
    "/api/health": NOBODY,
    "/api/health/ready": NOBODY,
    "/api/health/serving": NOBODY,
    "/api/s3/buckets": "buckets:read",
    "/api/parameters/list": "parameters:read",
    "/api/parameters": "parameters:read",
    "/auth/login": NOBODY,
    "/auth/logout": ANY,
    "/auth/me": ANY,
    "/health": "gateway:operate",
    "/health/<service>": "gateway:operate",
    "/services": "gateway:operate",
    "/services/<name>": "gateway:operate",
    "/circuit-breakers": "gateway:operate",
    "/routes": "gateway:operate",
    "/gateway/stats": "gateway:operate",
    "/metrics": "gateway:operate",
}
POSTED = ("/auth/login", "/auth/logout")
# Beside the rules themselves: what takes more than its rule does.
QUERIES = {
    "/api/parameters": (
        "?name=database/host",
        "?name=/myproject/database/host",
        "?name=feature/flag",
        "?name=database/host&decrypt=true",
        "?name=feature/flag&decrypt=true",
        "?name=databases/host",
    ),
    "/api/parameters/list": ("", "?decrypt=true", "?prefix=database", "?prefix=feature", "?limit=3"),
    "/api/s3/buckets": ("", "?limit=3"),
}

Headers = dict[str, str]
Show = Callable[[str], Headers]


def aws(operation: str, arguments: dict[str, Any]) -> Any:
    """Answer as AWS does: whatever is asked for is there."""
    if operation == "ListBuckets":
        return {"Buckets": [{"Name": "b", "CreationDate": MOMENT}]}
    names = [arguments["Name"]] if operation == "GetParameter" else [f"{arguments['Path']}/a"]
    always = {"Type": "String", "Value": "v", "Version": 1, "LastModifiedDate": MOMENT}
    made = [{"Name": name, **always} for name in names]
    return {"Parameter": made[0]} if operation == "GetParameter" else {"Parameters": made}


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return write(tmp_path_factory.mktemp("accounts") / "accounts.yaml")


@pytest.fixture(scope="module")
def pair(people: People, issuer: Issuer, pair_over_fake_aws: Callable[..., Any]) -> Any:
    made = pair_over_fake_aws(**people.environment())
    made.aws.answer = aws
    for each in made.gateway_app.extensions["background"]:
        if isinstance(each, KeySets):
            for key_set in each._sets.values():
                key_set._fetch = issuer.key_set
                key_set.refresh()
    return made


@pytest.fixture(scope="module")
def tokens(pair: Any, people: People) -> dict[str, str]:
    """Log in as everybody; from addresses of their own, for logins are counted."""
    made = {}
    for number, role in enumerate(ROLES):
        answer = pair.gateway.post(
            "/auth/login",
            json={"email": f"{role}@example.com", "password": PASSWORD},
            environ_overrides={"REMOTE_ADDR": f"198.51.100.{number}"},
        )
        assert answer.status_code == 200
        made[role] = answer.get_json()["token"]
    return made


@pytest.fixture(
    scope="module", params=["own token", "token of an issuer", "X-API-Key", "Authorization: ApiKey"]
)
def show(request: pytest.FixtureRequest, tokens: dict[str, str], people: People, issuer: Issuer) -> Show:
    """Give how somebody of a role shows who he is."""
    kinds: dict[str, Show] = {
        "own token": lambda role: {"Authorization": f"Bearer {tokens[role]}"},
        "token of an issuer": lambda role: {"Authorization": f"bearer {issuer.token(role)}"},
        "X-API-Key": lambda role: {"X-API-Key": people.keys[role].text},
        "Authorization: ApiKey": lambda role: {"Authorization": f"ApiKey {people.keys[role].text}"},
    }
    return kinds[request.param]


def targets(rule: str) -> Iterator[str]:
    """Give what is asked for under a rule."""
    filled = rule.replace("<service>", "auxiliary-service").replace("<name>", "auxiliary-service")
    for query in QUERIES.get(rule, ("",)):
        yield filled + query


def status(target: str, needed: str | None, scopes: frozenset[str]) -> int:
    """Say what somebody with ``scopes`` is to be answered: the table, written anew."""
    if needed in (NOBODY, ANY):
        return 200
    narrowed = "parameters:read:/database/**" in scopes
    if needed not in scopes and not (needed == "parameters:read" and narrowed):
        return 403
    if "decrypt=true" in target and "parameters:decrypt" not in scopes:
        return 403
    if narrowed and ("feature" in target or "databases" in target):
        return 403
    return 200


def test_every_rule_is_in_the_table(pair: Any) -> None:
    assert {rule.rule for rule in pair.gateway_app.url_map.iter_rules()} == set(NEEDED)


@pytest.mark.parametrize("role", ROLES)
def test_who_shows_a_good_credential_gets_what_its_scopes_say(pair: Any, show: Show, role: str) -> None:
    scopes = frozenset(ROLES[role])
    met = {}
    for rule, needed in NEEDED.items():
        if rule in POSTED:
            continue
        for target in targets(rule):
            for method in ("GET", "HEAD"):
                answer = pair.gateway.open(target, method=method, headers=show(role))
                met[method, target] = answer.status_code
                assert answer.status_code == status(target, needed, scopes), (method, target)
                if answer.status_code == 403:
                    assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
                if method == "HEAD":
                    assert answer.data == b""
    assert len(met) >= 70


def bad_ones(people: People, issuer: Issuer, tokens: dict[str, str]) -> dict[str, tuple[Headers, str]]:
    """Give credentials that are no good, with the code that they are refused by."""
    key, token = people.keys["admin"].text, tokens["admin"]
    return {
        "none": ({}, "unauthenticated"),
        "a made-up key": ({"X-API-Key": "gwk_" + "A" * 43}, "unauthenticated"),
        "no key": ({"X-API-Key": "x"}, "unauthenticated"),
        "an empty key": ({"X-API-Key": ""}, "unauthenticated"),
        "a key that is disabled": ({"X-API-Key": people.keys["disabled"].text}, "token_revoked"),
        "a key that has expired": ({"X-API-Key": people.keys["expired"].text}, "token_expired"),
        "a key as a token": ({"Authorization": f"Bearer {key}"}, "unauthenticated"),
        "a token as a key": ({"X-API-Key": token}, "unauthenticated"),
        "no token": ({"Authorization": "Bearer x"}, "unauthenticated"),
        "nothing behind the scheme": ({"Authorization": "Bearer "}, "unauthenticated"),
        "another scheme": ({"Authorization": "Basic YTpi"}, "unauthenticated"),
        "no scheme": ({"Authorization": token}, "unauthenticated"),
        "two tokens": ({"Authorization": f"Bearer {token},Bearer {token}"}, "unauthenticated"),
        "a token and a key": ({"Authorization": f"Bearer {token}", "X-API-Key": key}, "unauthenticated"),
        "a token that goes on": ({"Authorization": f"Bearer {token}x"}, "unauthenticated"),
        "a token of more than 8 KiB": ({"Authorization": "Bearer " + "a" * 8193}, "unauthenticated"),
        "an expired token of an issuer": (
            {"Authorization": f"Bearer {issuer.token('admin', iat=1_700_000_000, exp=1_700_000_600)}"},
            "token_expired",
        ),
        "a token for somebody else": (
            {"Authorization": f"Bearer {issuer.token('admin', aud='https://other.example')}"},
            "unauthenticated",
        ),
    }


def test_nobody_gets_in_with_a_bad_credential(
    pair: Any, people: People, issuer: Issuer, tokens: dict[str, str]
) -> None:
    for number, (name, (headers, code)) in enumerate(bad_ones(people, issuer, tokens).items()):
        for at, (rule, needed) in enumerate(NEEDED.items()):
            if rule in POSTED or needed is NOBODY:
                continue
            for last, target in enumerate(targets(rule)):
                # From another address each time: who is refused too often is told no more.
                address = f"10.{number}.{at}.{last}"
                for method in ("GET", "HEAD"):
                    answer = pair.gateway.open(
                        target, method=method, headers=headers, environ_overrides={"REMOTE_ADDR": address}
                    )
                    assert answer.status_code == 401, (name, method, target)
                    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="main-api"')
                    assert ("error=" in answer.headers["WWW-Authenticate"]) == (name != "none")
                    assert answer.headers["Cache-Control"] == "no-store"
                    if method == "GET":
                        assert answer.get_json()["code"] == code, (name, target)


def test_what_is_for_everybody_is_so_with_a_bad_credential_too(
    pair: Any, people: People, issuer: Issuer, tokens: dict[str, str]
) -> None:
    for headers, _ in bad_ones(people, issuer, tokens).values():
        for rule, needed in NEEDED.items():
            if needed is NOBODY and rule not in POSTED:
                assert pair.gateway.get(rule, headers=headers).status_code == 200


def test_other_methods_and_preflights_tell_the_same_to_everybody(pair: Any, people: People) -> None:
    key = {"X-API-Key": people.keys["admin"].text}
    for rule in NEEDED:
        target = next(targets(rule))
        for method in METHODS:
            if method in ("GET", "HEAD", "POST") and (method == "POST") == (rule in POSTED):
                continue
            told = [pair.gateway.open(target, method=method, headers=headers) for headers in ({}, key)]
            assert {each.status_code for each in told} == {200 if method == "OPTIONS" else 405}
            assert len({each.headers.get("Allow") for each in told}) == 1
            if method == "OPTIONS":
                assert {each.data for each in told} == {b""}


@pytest.mark.parametrize("name", ["access_token", "token", "api_key", "APIKEY", "jwt", "Authorization"])
def test_a_credential_in_the_query_is_refused_however_good_it_is(
    pair: Any, people: People, tokens: dict[str, str], name: str
) -> None:
    for number, value in enumerate((tokens["admin"], people.keys["admin"].text)):
        for headers in ({}, {"X-API-Key": people.keys["admin"].text}):
            answer = pair.gateway.get(
                "/api/s3/buckets",
                query_string={name: value},
                headers=headers,
                environ_overrides={"REMOTE_ADDR": f"203.0.113.{number}"},
            )
            assert (answer.status_code, answer.get_json()["code"]) == (401, "unauthenticated")
            assert value not in answer.text


def test_logging_out_takes_any_token_and_no_key(pair: Any, people: People, issuer: Issuer) -> None:
    for token in (issuer.token("nothing"), issuer.token("admin")):
        shown = {"Authorization": f"Bearer {token}"}
        assert pair.gateway.get("/auth/me", headers=shown).status_code == 200
        assert pair.gateway.post("/auth/logout", headers=shown).get_json() == {
            "message": "Logged out successfully"
        }
        answer = pair.gateway.get("/auth/me", headers=shown)
        assert (answer.status_code, answer.get_json()["code"]) == (401, "token_revoked")

    key = {"X-API-Key": people.keys["admin"].text}
    assert pair.gateway.post("/auth/logout", headers=key).status_code == 400
    assert pair.gateway.get("/auth/me", headers=key).status_code == 200
    assert pair.gateway.post("/auth/logout").status_code == 401
