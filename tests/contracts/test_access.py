"""Logins, limits, revocations and the audit log, over the pair in one process."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from main_api.accounts.revocations import Revocations
from main_api.accounts.watched import WatchedAccounts
from tests.contracts.accounts import INTERNAL, PASSWORD, SECRET, People, write

MOMENT = datetime(2023, 12, 1, 12, tzinfo=UTC)
CANARY = "canary-value-2b7d"
BUCKETS = "/api/s3/buckets"

MakePair = Callable[..., Any]


@pytest.fixture
def people(tmp_path: Path) -> People:
    return write(tmp_path / "accounts.yaml")


@pytest.fixture
def pair(people: People, pair_over_fake_aws: MakePair) -> Any:
    return serving(pair_over_fake_aws(**people.environment()))


def serving(pair: Any) -> Any:
    """Have AWS answer with a bucket and a SecureString."""

    def answer(operation: str, arguments: dict[str, Any]) -> Any:
        if operation == "ListBuckets":
            return {"Buckets": [{"Name": "b", "CreationDate": MOMENT}]}
        value = CANARY if arguments["WithDecryption"] else "cipher text"
        return {
            "Parameter": {
                "Name": arguments["Name"],
                "Type": "SecureString",
                "Value": value,
                "Version": 1,
                "LastModifiedDate": MOMENT,
            }
        }

    pair.aws.answer = answer
    return pair


def login(pair: Any, role: str = "admin", password: str = PASSWORD, address: str = "192.0.2.1") -> Any:
    return pair.gateway.post(
        "/auth/login",
        json={"email": f"{role}@example.com", "password": password},
        environ_overrides={"REMOTE_ADDR": address},
    )


def bearer(pair: Any, role: str = "admin") -> dict[str, str]:
    return {"Authorization": f"Bearer {login(pair, role).get_json()['token']}"}


def key(people: People, role: str = "admin") -> dict[str, str]:
    return {"X-API-Key": people.keys[role].text}


def background(pair: Any, kind: type) -> Any:
    [found] = [each for each in pair.gateway_app.extensions["background"] if isinstance(each, kind)]
    return found


def audit(lines: Any, event: str) -> list[dict[str, Any]]:
    return [line for line in lines.all if line["logger"] == "main_api.audit" and line["event"] == event]


def test_a_login_gives_a_token_and_says_whose_it_is(pair: Any) -> None:
    answer = login(pair, "buckets")

    body = answer.get_json()
    assert answer.status_code == 200
    assert list(body) == ["token", "user", "expiresIn"]
    assert body["user"] == {"id": "u_buckets", "email": "buckets@example.com", "role": "buckets"}
    assert body["expiresIn"] == 3600
    assert answer.headers["Cache-Control"] == "no-store"
    me = pair.gateway.get("/auth/me", headers={"Authorization": f"Bearer {body['token']}"}).get_json()
    assert me == {
        "subject": "user:u_buckets",
        "user": body["user"],
        "scopes": ["buckets:read"],
        "plan": None,
    }


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("admin@example.com", "wrong"),
        ("nobody@example.com", PASSWORD),
        ("admin@example.com", PASSWORD + "x"),
        ("admin", PASSWORD),
        ("\ud800@example.com", PASSWORD),
    ],
)
def test_whatever_is_wrong_with_a_login_is_answered_alike(pair: Any, email: str, password: str) -> None:
    answer = pair.gateway.post("/auth/login", json={"email": email, "password": password})

    body = answer.get_json()
    assert (answer.status_code, body["error"], body["code"]) == (
        401,
        "Invalid credentials",
        "unauthenticated",
    )
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="main-api"'


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b'{"email": "a@b.cc"}', "application/json", 400),
        (b'{"email": 1, "password": "%s"}' % PASSWORD.encode(), "application/json", 400),
        (b'{"email": "a@b.cc", "password": ["%s"]}' % PASSWORD.encode(), "application/json", 400),
        (b'{"email": "a@b.cc", "password": "%s", "x": 1}' % PASSWORD.encode(), "application/json", 400),
        (b'{"email": "a@b.cc", "password": "%s"}' % (b"x" * 1025), "application/json", 400),
        (b'{"email": "a@b.cc", "password": "x"}', "text/plain", 400),
        (b"email=a%40b.cc&password=x", "application/x-www-form-urlencoded", 400),
        (b'{"email": "a@b.cc", "password": "%s"}' % (b"x" * 65_536), "application/json", 413),
        (b"\xff\xfe", "application/json", 400),
    ],
)
def test_a_login_that_is_none_is_told_so_and_its_password_is_not_repeated(
    pair: Any, body: bytes, content_type: str, status: int
) -> None:
    answer = pair.gateway.post("/auth/login", data=body, content_type=content_type)

    assert answer.status_code == status
    assert answer.get_json()["code"] in ("bad_request", "validation_failed", "too_large")
    assert PASSWORD not in answer.text


def test_logins_are_counted_by_address_and_by_account_before_anything_is_hashed(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    verify = "main_api.accounts.passwords.Passwords.verify"
    monkeypatch.setattr(verify, lambda *arguments: hashed.append(arguments) or False)

    def statuses(number: int, address: str, role: str) -> list[int]:
        return [login(pair, role, "wrong", address).status_code for _ in range(number)]

    assert statuses(7, "192.0.2.1", "admin") == [401] * 5 + [429] * 2
    # The address is used up for every account, the account for every address.
    assert statuses(1, "192.0.2.1", "buckets") == [429]
    assert statuses(1, "192.0.2.2", "admin") == [429]
    assert statuses(2, "192.0.2.2", "buckets") == [401] * 2
    assert len(hashed) == 7
    refused = login(pair, "admin", PASSWORD, "192.0.2.3")
    assert refused.get_json()["code"] == "rate_limited"
    assert 1 <= int(refused.headers["Retry-After"]) <= 900


def test_a_good_credential_always_passes_however_many_were_refused_from_its_address(
    pair: Any, people: People
) -> None:
    wrong = {"X-API-Key": "gwk_" + "A" * 43}

    told = [pair.gateway.get(BUCKETS, headers=wrong).status_code for _ in range(25)]

    assert told == [401] * 20 + [429] * 5
    refused = pair.gateway.get(BUCKETS, headers=wrong)
    assert refused.get_json()["code"] == "rate_limited"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert pair.gateway.get(BUCKETS, headers=key(people)).status_code == 200
    # Whoever shows nothing has guessed nothing.
    assert pair.gateway.get(BUCKETS).status_code == 401


def test_strangers_learn_nothing_of_what_a_route_takes(pair: Any, people: People) -> None:
    target = "/api/parameters?nonsense=1&name=a&name=b"

    assert pair.gateway.get(target).status_code == 401
    assert pair.gateway.get(target, headers=key(people, "buckets")).status_code == 403
    assert pair.gateway.get(target, headers=key(people)).status_code == 400
    assert pair.aws.calls == []


def test_answers_to_somebody_known_are_private(pair: Any, people: People) -> None:
    answer = pair.gateway.get(BUCKETS, headers=key(people))
    again = pair.gateway.get(BUCKETS, headers={**key(people), "If-None-Match": answer.headers["ETag"]})

    assert (answer.status_code, again.status_code) == (200, 304)
    for each in (answer, again):
        assert each.headers["Cache-Control"].startswith("private, max-age=")
    assert "private" in pair.gateway.get(BUCKETS, headers=bearer(pair)).headers["Cache-Control"]
    assert pair.gateway.get("/metrics", headers=key(people)).headers["Cache-Control"] == "no-store"


def test_a_user_who_is_disabled_or_changed_is_so_at_once(pair: Any, people: People) -> None:
    token, watched = bearer(pair), background(pair, WatchedAccounts)
    assert pair.gateway.get("/health", headers=token).status_code == 200

    write_anew(people, watched, role="buckets")
    assert pair.gateway.get("/health", headers=token).status_code == 403
    assert pair.gateway.get(BUCKETS, headers=token).status_code == 200

    write_anew(people, watched, disabled=True)
    refused = pair.gateway.get(BUCKETS, headers=token)
    assert (refused.status_code, refused.get_json()["code"]) == (401, "token_revoked")
    assert login(pair, address="192.0.2.9").status_code == 401

    write_anew(people, watched)
    assert pair.gateway.get(BUCKETS, headers=token).status_code == 200
    write_anew(people, watched, tokens_after="2099-01-01")
    assert pair.gateway.get(BUCKETS, headers=token).status_code == 401


def write_anew(people: People, watched: WatchedAccounts, **fields: Any) -> None:
    """Change the user ``admin`` in the file, as an editor does, and have it looked at."""
    written = json.loads(people.path.read_text())
    [user] = [each for each in written["users"] if each["id"] == "u_admin"]
    for name in ("disabled", "tokens_after"):
        user.pop(name, None)
    user |= {"role": "admin"} | fields
    new = people.path.with_suffix(".new")
    new.write_text(json.dumps(written))
    new.replace(people.path)
    watched.look()


def test_a_faulty_file_leaves_who_may(pair: Any, people: People) -> None:
    watched = background(pair, WatchedAccounts)
    people.path.write_text("users: [")
    watched.look()
    watched.look()

    assert watched.fault
    assert pair.gateway.get(BUCKETS, headers=key(people)).status_code == 200


def test_a_plan_takes_the_place_of_the_limit_and_holds_over_all_routes(
    tmp_path: Path, pair_over_fake_aws: MakePair
) -> None:
    people = write(tmp_path / "accounts.yaml", k_admin={"plan": "small"}, k_buckets={"plan": "daily"})
    written = json.loads(people.path.read_text())
    written["plans"] = {
        "small": {"rate": "3 per hour", "burst": "2 per 10 seconds"},
        "daily": {"quota": "2 per day"},
    }
    people.path.write_text(json.dumps(written))
    pair = serving(
        pair_over_fake_aws(**people.environment(RATE_LIMIT_ENABLED="true", RATE_LIMIT="1 per hour"))
    )

    def ask(role: str, target: str = BUCKETS) -> Any:
        return pair.gateway.get(target, headers=key(people, role))

    first, second, third = ask("admin"), ask("admin", "/api/parameters?name=a"), ask("admin")
    assert [each.status_code for each in (first, second, third)] == [200, 200, 429]
    assert first.headers["RateLimit-Policy"] == '"burst";q=2;w=10, "rate";q=3;w=3600'
    assert third.headers["RateLimit"].startswith('"burst";r=0;')
    assert (third.get_json()["code"], third.headers["Retry-After"]) == ("rate_limited", "10")

    used = [ask("buckets") for _ in range(3)]
    assert [each.status_code for each in used] == [200, 200, 429]
    assert used[2].get_json()["code"] == "quota_exceeded"
    assert int(used[2].headers["Retry-After"]) == used[2].get_json()["retryAfter"] <= 86400

    # The others have the route's.
    assert [ask("parameters", "/api/parameters?name=a").status_code for _ in range(2)] == [200, 429]


def test_the_limit_is_the_callers_own_on_each_route_and_not_the_addresses(
    people: People, pair_over_fake_aws: MakePair
) -> None:
    pair = serving(
        pair_over_fake_aws(**people.environment(RATE_LIMIT_ENABLED="true", RATE_LIMIT="2 per hour"))
    )

    def statuses(headers: dict[str, str], target: str = BUCKETS) -> list[int]:
        return [pair.gateway.get(target, headers=headers).status_code for _ in range(3)]

    assert statuses(key(people)) == [200, 200, 429]
    assert statuses(key(people), "/api/parameters?name=a") == [200, 200, 429]
    assert statuses(key(people, "buckets")) == [200, 200, 429]
    token = bearer(pair)
    assert statuses(token) == [200, 200, 429]
    # Operators' endpoints and probes have none.
    for target in ("/health", "/api/health", "/api/health/serving", "/metrics"):
        assert {pair.gateway.get(target, headers=token).status_code for _ in range(5)} == {200}


@pytest.mark.parametrize(
    ("unavailable", "read", "decrypted"), [("", 200, 503), ("allow", 200, 200), ("deny", 503, 503)]
)
def test_while_it_is_not_known_what_was_revoked_the_setting_decides(
    people: People,
    pair_over_fake_aws: MakePair,
    monkeypatch: pytest.MonkeyPatch,
    unavailable: str,
    read: int,
    decrypted: int,
) -> None:
    pair = serving(pair_over_fake_aws(**people.environment(REVOCATION_UNAVAILABLE=unavailable)))
    plain, secret = "/api/parameters?name=a", "/api/parameters?name=a&decrypt=true"
    for target in (plain, secret):
        assert pair.gateway.get(target, headers=key(people)).status_code == 200

    monkeypatch.setattr(Revocations, "current", property(lambda _: False))

    assert pair.gateway.get(plain, headers=key(people)).status_code == read
    answer = pair.gateway.get(secret, headers=key(people))
    assert answer.status_code == decrypted
    if decrypted == 503:
        assert CANARY not in answer.text
        assert answer.get_json()["code"] == "upstream_unavailable"
    # A bad one is no better for it.
    assert pair.gateway.get(plain, headers={"X-API-Key": "x"}).status_code == 401


def test_the_audit_log_has_a_line_for_each_thing_that_matters_and_no_secret(
    pair: Any, people: People, lines: Any
) -> None:
    login(pair, password="wrong")
    token = bearer(pair)
    for _ in range(2):
        pair.gateway.get("/api/parameters?name=database/password&decrypt=true", headers=key(people))
    pair.gateway.get("/health", headers=key(people, "buckets"))
    pair.gateway.get(BUCKETS, headers={"X-API-Key": "gwk_" + "A" * 43})
    pair.gateway.post("/auth/logout", headers=token)
    pair.gateway.get(BUCKETS, headers=token)

    [refused] = audit(lines, "login refused")
    assert refused["clientAddress"] == "192.0.2.1"
    [came] = audit(lines, "login")
    assert came["subject"] == "user:u_admin"
    first = audit(lines, "key first used")
    assert [(each["subject"], each["owner"]) for each in first] == [
        ("key:k_admin", "admin"),
        ("key:k_buckets", "buckets"),
    ]
    decrypted = audit(lines, "decryption")
    assert [(each["subject"], each["parameter"]) for each in decrypted] == [
        ("key:k_admin", "database/password")
    ] * 2
    [forbidden] = audit(lines, "forbidden")
    assert forbidden["subject"] == "key:k_buckets"
    assert "gateway:operate" in forbidden["reason"]
    assert [each["reason"] for each in audit(lines, "refused")] == ["unauthenticated", "token_revoked"]
    [left] = audit(lines, "logout")
    assert left["subject"] == "user:u_admin"
    for each in (refused, came, *first, *decrypted, forbidden, left):
        assert each["requestId"]
    for secret in (PASSWORD, "wrong", CANARY, token["Authorization"][7:], SECRET, INTERNAL):
        assert secret not in lines.text
    for made in people.keys.values():
        assert made.text not in lines.text


def test_new_and_revoked_keys_are_in_the_audit_log(pair: Any, people: People, lines: Any) -> None:
    watched = background(pair, WatchedAccounts)
    written = json.loads(people.path.read_text())
    written["keys"][0]["disabled"] = True
    written["keys"].append({"id": "k_new", "owner": "new", "digest": "0" * 64, "scopes": ["buckets:read"]})
    new = people.path.with_suffix(".new")
    new.write_text(json.dumps(written))
    new.replace(people.path)
    watched.look()

    [made] = audit(lines, "key made")
    assert (made["key"], made["owner"], made["scopes"]) == ("k_new", "new", ["buckets:read"])
    [revoked] = audit(lines, "key revoked")
    assert revoked["key"] == "k_nothing"


def test_no_secret_is_in_any_body_metric_or_cache_but_in_that_of_an_allowed_decryption(
    pair: Any, people: People, lines: Any
) -> None:
    token = bearer(pair)
    targets = [
        BUCKETS,
        "/api/parameters?name=database/password",
        "/api/parameters?name=database/password&decrypt=true",
        "/api/parameters/list",
        "/auth/me",
        "/metrics",
        "/routes",
        "/gateway/stats",
        "/services/auxiliary-service",
        "/openapi.json",
        f"/{people.keys['admin'].text}",
    ]
    secrets = [PASSWORD, SECRET, INTERNAL, token["Authorization"][7:], people.keys["admin"].text]
    met = 0
    for target in targets:
        for shown in (token, key(people), key(people, "buckets"), {}, {"Authorization": "Bearer x"}):
            answer = pair.gateway.get(target, headers=shown)
            said = answer.text + str(answer.headers)
            for secret in secrets:
                assert secret not in said, target
            allowed = "decrypt=true" in target and shown in (token, key(people))
            assert (CANARY in said) == allowed, target
            met += allowed
    assert met == 2
    kept = [each for each in lines.all if each["logger"] != "chassis.access_log"]
    for secret in (*secrets, CANARY):
        assert secret not in json.dumps(kept)


def test_without_operations_port_strangers_see_no_metrics_and_with_it_nobody_is_asked(
    people: People, pair_over_fake_aws: MakePair
) -> None:
    apart = pair_over_fake_aws(**people.environment(OPERATIONS_PORT="3009"))
    beside = {"SERVER_PORT": "3009"}

    for target in ("/metrics", "/health", "/services", "/routes", "/gateway/stats", "/circuit-breakers"):
        assert apart.gateway.get(target, environ_overrides=beside).status_code == 200
        assert apart.gateway.get(target, headers=key(people)).status_code == 404
    for target in (BUCKETS, "/auth/me", "/auth/login"):
        assert apart.gateway.get(target, headers=key(people), environ_overrides=beside).status_code == 404
