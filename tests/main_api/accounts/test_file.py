"""The accounts file: what it says, and that whatever is wrong is told, at once and without a secret."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from main_api.accounts import file
from main_api.accounts.file import Accounts, AccountsFault, ApiKey, User, parse
from main_api.exchange import Plan, Quota, Window

HASH = "$argon2id$v=19$m=19456,t=2,p=1$" + 22 * "A" + "$" + 43 * "B"
DIGEST = 64 * "d"

FULL = f"""\
# a comment
roles:
  reader: [buckets:read, "parameters:read:/database/**"]
  admin: [buckets:read, parameters:read, parameters:decrypt, gateway:operate]
plans:
  standard: {{rate: 600 per minute, burst: 20 per second, quota: 100000 per month}}
  free: {{quota: 10 per day}}
users:
  - {{id: u_3f9, email: Ann@example.com, role: admin, password: "{HASH}", disabled: false,
     tokens_after: 2026-11-21T00:00:00Z}}
  - id: u_4
    email: bob@example.com
    role: reader
    password: {HASH}
    disabled: true
keys:
  - {{id: k_8d2, owner: billing, digest: {DIGEST}, scopes: [buckets:read], plan: standard,
     expires: 2027-01-01, disabled: false}}
  - {{id: k_9, owner: "the nightly job", digest: {64 * "E"}, scopes: [], expires: 2027-01-01T12:00:00+02:00}}
"""


def user(**fields: Any) -> dict[str, Any]:
    return {"id": "u_1", "email": "ann@example.com", "role": "reader", "password": HASH, **fields}


def key(**fields: Any) -> dict[str, Any]:
    return {"id": "k_1", "owner": "billing", "digest": DIGEST, "scopes": ["buckets:read"], **fields}


def written(**sections: Any) -> str:
    """Write a file as JSON, which is YAML."""
    return json.dumps({"roles": {"reader": ["buckets:read"]}, "plans": {"standard": {}}, **sections})


def faults(text: str) -> list[str]:
    with pytest.raises(AccountsFault) as raised:
        parse(text)
    return raised.value.faults


def test_everything_is_read() -> None:
    accounts = parse(FULL)

    ann, bob = accounts.users
    assert ann == User(
        "u_3f9", "Ann@example.com", "admin", HASH, False, datetime(2026, 11, 21, tzinfo=UTC).timestamp()
    )
    assert bob == User("u_4", "bob@example.com", "reader", HASH, True, 0.0)
    standard = Plan("standard", Window(600, 60), Window(20, 1), Quota(100_000, "month"))
    assert accounts.plans == {"standard": standard, "free": Plan("free", quota=Quota(10, "day"))}
    billing, nightly = accounts.keys
    new_year = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert billing == ApiKey(
        "k_8d2", "billing", DIGEST, frozenset({"buckets:read"}), standard, new_year, False
    )
    assert nightly == ApiKey(
        "k_9", "the nightly job", 64 * "e", frozenset(), None, new_year + 10 * 3600, False
    )
    assert accounts.roles["reader"] == {"buckets:read", "parameters:read:/database/**"}


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "{}", "roles:\nusers:\nkeys:\nplans:\n", "---\n...\n", "\ufeff# BOM\n"]
)
def test_every_section_may_be_missing(text: str) -> None:
    assert parse(text) == Accounts()


def test_users_are_found_by_id_and_by_address_in_any_case_and_composition() -> None:
    accounts = parse(written(users=[user(email="J\u00f6rg@Example.com")]))

    [found] = accounts.users
    assert accounts.user("u_1") is found
    assert accounts.user("U_1") is None
    for spelling in ("j\u00f6rg@example.com", "J\u00d6RG@EXAMPLE.COM", "jo\u0308rg@example.com"):
        assert accounts.user_by_email(spelling) is found
    for other in ("jorg@example.com", "", "x" * 10**6, "\ud800", "j\u00f6rg@example.com "):
        assert accounts.user_by_email(other) is None


def test_keys_are_found_by_digest() -> None:
    accounts = parse(FULL)

    assert accounts.key(DIGEST) is accounts.keys[0]
    assert accounts.key(64 * "e") is accounts.keys[1]
    assert accounts.key(64 * "E") is None
    assert accounts.key("") is None


def test_a_user_may_what_the_role_may_and_nothing_without_one() -> None:
    accounts = parse(FULL)

    assert accounts.scopes_of(accounts.users[1]) == {"buckets:read", "parameters:read:/database/**"}
    assert accounts.scopes_of(User("u", "a@b", "gone", HASH)) == frozenset()


def test_secrets_are_in_no_repr() -> None:
    text = repr(parse(FULL))

    assert "billing" in text
    for secret in (HASH, DIGEST, 64 * "e", "argon2"):
        assert secret not in text


def test_numbers_and_dates_are_the_texts_that_they_were_written_as() -> None:
    accounts = parse(f"keys: [{{id: 007, owner: 1_000, digest: {64 * '1'}, scopes: []}}]")

    assert (accounts.keys[0].id, accounts.keys[0].owner) == ("007", "1_000")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-01", 1_798_761_600.0),
        ("2027-01-01T00:00:00Z", 1_798_761_600.0),
        ("2027-01-01 00:00:00.250Z", 1_798_761_600.25),
        ("2027-01-01t01:00:00+01:00", 1_798_761_600.0),
        (None, None),
    ],
)
def test_the_end_of_a_key_is_a_date_or_a_time(text: str | None, seconds: float | None) -> None:
    assert parse(written(keys=[key(expires=text)])).keys[0].expires == seconds


ARGON = "a hash by `main-api accounts add` needed"
MOMENT = "a date such as 2027-01-01"


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"user": []}, "user: no such section, there are roles, plans, users, keys; did you mean 'users'?"),
        ({"users": {}}, "users: a list needed"),
        ({"users": "x"}, "users: a list needed, each item begins with -, got 'x'"),
        ({"users": [3]}, "users[0]: a mapping of id, email"),
        ({"users": [None]}, "users[0]: a mapping of id, email"),
        ({"roles": []}, "roles: a mapping of names needed, got a list"),
        ({"roles": {"a b": []}}, "roles.a b: as a name 1 to 64 of A-Z"),
        ({"roles": {"a": None}}, "roles.a: empty: a list of scopes needed"),
        ({"roles": {"a": "buckets:read"}}, "roles.a: a list of scopes needed"),
        ({"roles": {"a": {"buckets:read": 1}}}, "roles.a: a list of scopes needed"),
        ({"roles": {"a": ["bucket:read"]}}, "roles.a[0]: one of buckets:read, "),
        ({"roles": {"a": ["bucket:read"]}}, "got 'bucket:read'; did you mean 'buckets:read'?"),
        ({"roles": {"a": ["parameters:read:/../**"]}}, "roles.a[0]: one of "),
        ({"plans": {"a": []}}, "plans.a: a mapping of rate, burst, quota needed, got a list"),
        (
            {"plans": {"a": {"brust": "1 per day"}}},
            "plans.a.brust: no such field, there are rate, burst, quota; ",
        ),
        ({"plans": {"a": {"brust": "1 per day"}}}, "did you mean 'burst'?"),
        ({"plans": {"a": {"rate": "0 per day"}}}, "plans.a.rate: a limit such as 600 per minute needed"),
        ({"plans": {"a": {"rate": "1 per minute, 2 per day"}}}, "plans.a.rate: a limit such as"),
        ({"plans": {"a": {"burst": 5}}}, "plans.a.burst: a limit such as"),
        ({"plans": {"a": {"burst": "9" * 5000 + " per day"}}}, "plans.a.burst: a limit such as"),
        ({"plans": {"a": {"quota": "10 per hour"}}}, "plans.a.quota: a quota such as 10000 per day"),
        ({"plans": {"a": {"quota": "0 per day"}}}, "plans.a.quota: a quota such as 10000 per day"),
        ({"users": [user(role="raeder")]}, "users[0].role: 'raeder' is not in `roles`"),
        ({"users": [user(role="raeder")]}, "did you mean 'reader'?"),
        ({"users": [user(role=None)]}, "users[0].role: empty: the name of one of `roles` needed"),
        ({"users": [user(id="a.b")]}, "users[0].id: 1 to 64 of A-Z a-z 0-9 _ and - needed, got 'a.b'"),
        ({"users": [user(id=65 * "a")]}, "users[0].id: 1 to 64 of"),
        ({"users": [user(id="a\n")]}, "users[0].id: 1 to 64 of"),
        ({"users": [user(email="ann")]}, "users[0].email: an address such as ann@example.com needed"),
        ({"users": [user(email="a@b@c")]}, "users[0].email: an address"),
        ({"users": [user(email="a\x07@b")]}, "users[0].email: an address"),
        (
            {"users": [user(email=["a@b"])]},
            "users[0].email: an address such as ann@example.com needed, got a list",
        ),
        ({"users": [user(disabled="yes")]}, "users[0].disabled: true or false needed"),
        ({"users": [user(disabled=1)]}, "users[0].disabled: true or false needed"),
        ({"users": [user(disabled=[])]}, "users[0].disabled: true or false needed"),
        ({"users": [user(disabled=None)]}, "users[0].disabled: true or false needed"),
        ({"users": [user(tokens_after="yesterday")]}, f"users[0].tokens_after: {MOMENT}"),
        ({"users": [user(tokens_after="2026-13-45")]}, f"users[0].tokens_after: {MOMENT}"),
        ({"users": [user(tokens_after="2026-11-21T00:00:00")]}, f"users[0].tokens_after: {MOMENT}"),
        ({"users": [user(tokens_after="2026-W01-1")]}, f"users[0].tokens_after: {MOMENT}"),
        ({"users": [user(pasword="x")]}, "users[0].pasword: no such field"),
        ({"users": [user(pasword="x")]}, "did you mean 'password'?"),
        ({"users": [user(), user(id="u_2")]}, "users[1].email: the same as users[0].email"),
        (
            {"users": [user(), user(id="u_2", email="ANN@EXAMPLE.COM")]},
            "users[1].email: the same as users[0].email",
        ),
        ({"users": [user(), user(email="b@c")]}, "users[1].id: the same as users[0].id"),
        ({"users": [user(id="x")], "keys": [key(id="x")]}, "keys[0].id: the same as users[0].id"),
        ({"users": [user(id="u_1", role="x"), user(email="b@c")]}, "users[1].id: the same as users[0].id"),
        ({"keys": [key(), key(id="k_2")]}, "keys[1].digest: the same as keys[0].digest"),
        ({"keys": [key(), key(id="k_2", digest=64 * "D")]}, "keys[1].digest: the same as keys[0].digest"),
        (
            {"keys": [key(digest="abc")]},
            "keys[0].digest: the SHA-256 of the key in 64 hexadecimal digits needed",
        ),
        ({"keys": [key(digest=63 * "a" + "g")]}, "keys[0].digest: the SHA-256"),
        ({"keys": [key(owner="")]}, "keys[0].owner: 1 to 128 printable characters needed"),
        ({"keys": [key(owner="a\tb")]}, "keys[0].owner: 1 to 128 printable characters needed"),
        ({"keys": [key(owner=129 * "a")]}, "keys[0].owner: 1 to 128 printable characters needed"),
        ({"keys": [key(scopes=None)]}, "keys[0].scopes: empty: a list of scopes needed"),
        ({"keys": [key(scopes=["buckets:read", "x"])]}, "keys[0].scopes[1]: one of buckets:read"),
        ({"keys": [key(scopes=[["buckets:read"]])]}, "keys[0].scopes[0]: one of buckets:read"),
        ({"keys": [key(plan="standrad")]}, "keys[0].plan: 'standrad' is not in `plans`"),
        ({"keys": [key(plan="standrad")]}, "did you mean 'standard'?"),
        ({"keys": [key(plan={})]}, "keys[0].plan: the name of one of `plans` needed, got a mapping"),
        ({"keys": [key(expires="soon")]}, f"keys[0].expires: {MOMENT}"),
        ({"keys": [key(expires=True)]}, f"keys[0].expires: {MOMENT}"),
    ],
)
def test_a_fault_says_where_it_is_and_what_would_be_right(sections: dict[str, Any], fault: str) -> None:
    assert any(fault in each for each in faults(written(**sections))), faults(written(**sections))


@pytest.mark.parametrize("name", ["id", "email", "role", "password"])
def test_what_a_user_needs_is_told(name: str) -> None:
    without = user()
    del without[name]

    assert [each.split(": ")[:2] for each in faults(written(users=[without]))] == [
        [f"users[0].{name}", "missing"]
    ]


@pytest.mark.parametrize("name", ["id", "owner", "digest", "scopes"])
def test_what_a_key_needs_is_told(name: str) -> None:
    without = key()
    del without[name]

    assert [each.split(": ")[:2] for each in faults(written(keys=[without]))] == [
        [f"keys[0].{name}", "missing"]
    ]


def hash_of(
    costs: str, kind: str = "argon2id", version: str = "v=19", salt: str = 22 * "A", tag: str = 43 * "B"
) -> str:
    return f"${kind}${version}${costs}${salt}${tag}"


@pytest.mark.parametrize("costs", ["m=262144,t=10,p=16", "m=8,t=1,p=1", "m=19456,t=2,p=1"])
def test_a_hash_with_bearable_costs_is_taken(costs: str) -> None:
    assert parse(written(users=[user(password=hash_of(costs))])).users[0].password == hash_of(costs)


@pytest.mark.parametrize(
    "password",
    [
        "secret",
        "",
        None,
        7,
        ["x"],
        hash_of("m=262145,t=2,p=1"),
        hash_of("m=19456,t=11,p=1"),
        hash_of("m=19456,t=2,p=17"),
        hash_of("m=19456,t=0,p=1"),
        hash_of("m=99999999999,t=2,p=1"),
        hash_of("m=7,t=2,p=1"),
        hash_of("m=127,t=2,p=16"),
        hash_of("m=19456,t=2,p=1", kind="argon2i"),
        hash_of("m=19456,t=2,p=1", kind="argon2d"),
        hash_of("m=19456,t=2,p=1", version="v=16"),
        hash_of("m=19456,t=2,p=1", salt=21 * "A"),
        hash_of("m=19456,t=2,p=1", tag=45 * "B"),
        hash_of("m=19456,t=2,p=1") + "\n",
        hash_of("t=2,m=19456,p=1"),
        "$2b$12$" + 53 * "a",
    ],
)
def test_any_other_hash_is_not_and_is_not_repeated(password: Any) -> None:
    [fault] = faults(written(users=[user(password=password)]))

    assert fault.startswith("users[0].password: ")
    assert ARGON in fault
    if password:
        assert str(password) not in fault.replace("secret", "")


def test_all_faults_are_told_at_once() -> None:
    told = faults(
        written(
            user=1,
            users=[user(role="x", disabled=3, extra=1), user(email="x")],
            keys=[key(plan="gold", scopes=["y"], expires="z")],
            plans={"p": {"quota": "q"}},
        )
    )

    assert {each.split(":")[0] for each in told} == {
        "user",
        "plans.p.quota",
        "users[0].disabled",
        "users[0].extra",
        "users[0].role",
        "users[1].email",
        "users[1].id",
        "keys[0].plan",
        "keys[0].scopes[0]",
        "keys[0].expires",
    }


def test_who_has_a_role_that_is_wrong_is_not_at_fault() -> None:
    assert len(faults(written(roles={"reader": ["x"]}, users=[user()]))) == 1


def test_a_thousand_faults_are_a_hundred_sentences_and_a_number() -> None:
    told = faults(written(users=[7] * 1000))

    assert len(told) == 101
    assert told[-1] == "and 900 more"


SECRETS = (HASH, DIGEST, "gwk_" + 43 * "k", "$argon2id$x")


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_repeated_wherever_it_stands(secret: str) -> None:
    fields: list[dict[str, Any]] = [
        {"users": [{name: secret} for name in user()]},
        {"users": [user(**{name: secret}) for name in ("id", "email", "role", "disabled", "tokens_after")]},
        {"users": [user(**{name: [secret]}) for name in user()]},
        {"keys": [key(**{name: secret}) for name in ("id", "scopes", "plan", "expires", "disabled")]},
        {"keys": [key(scopes=[secret])], "roles": {secret: [secret]}, "plans": {secret: {secret: secret}}},
        {"plans": {"a": {"rate": secret, "burst": secret, "quota": secret}}},
        {secret: secret, "users": [secret], "keys": secret},
        {"users": [{secret: 1}], "roles": [secret]},
        {"users": [user(password=secret + "="), user(password=secret)], "keys": [key(digest=secret + "=")]},
    ]
    texts = [written(**each) for each in fields]
    texts += [
        f"users:\n  - {secret}: {{\n",
        f"users: [*{secret}]",
        f"&{secret} a",
        f"!{secret} a",
        f"a: {secret}\na: {secret}",
        f"{secret}: 1\n{secret}: 2",
        f"? [{secret}]\n: 1",
        f"[{secret}",
        f"'{secret}",
        f"\t{secret}\n",
        f"%TAG !{secret}! x\n%TAG !{secret}! y\n---\n1",
        f'"\\{secret}"',
        f"--- {secret}\n--- {secret}",
        f"\x00{secret}",
    ]
    for text in texts:
        assert secret not in " ".join(faults(text)), text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("users: [", "line 1: not YAML: "),
        ("users:\n  - id: a\n bad", "line 3: not YAML: "),
        ("roles: {}\nroles: {}", "roles: given twice, the second time in line 2"),
        ('users:\n- {id: a, "id": b}', "users[0].id: given twice, the second time in line 2"),
        ("a: &x 1", "line 1: anchors (&)"),
        ("roles: {}\nusers: *x", "line 2: anchors (&)"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "line 1: anchors (&)"),
        ("a: !!python/object/apply:os.system [x]", "line 1: this tag (!)"),
        ("a: !foo x", "line 1: this tag (!)"),
        ("a: !!set {x}", "line 1: this tag (!)"),
        ("a: !!map x", "line 1: this tag (!)"),
        ("a: !!binary aGk=", "line 1: this tag (!)"),
        ("%YAML 1.1\n---\nusers: []", "line 2: YAML 1.2 is read"),
        ("%YAML 1." + 5000 * "9" + "\n---\nusers: []", "not YAML (ValueError)"),
        ("---\nusers: []\n---\nusers: []", "line 3: not YAML: "),
        (8 * "[" + 8 * "]", "a mapping of"),
        (9 * "[" + 9 * "]", "line 1: more than 8 levels"),
        (1_000_000 * "[", "line 1: more than 8 levels"),
        ("roles: {}\n\x00", "line 2: a character that is not printable"),
        ("roles: \ud800", "line 1: a character that is not printable"),
        ("? [a]\n: b", "line 1: a key must be a text"),
        ("<<: {users: []}", "<<: no such section"),
        ("- a", "a mapping of `roles`, `plans`, `users`, `keys` needed, got a list"),
        ("a", "a mapping of `roles`, `plans`, `users`, `keys` needed, got 'a'"),
        ("false", "a mapping of `roles`, `plans`, `users`, `keys` needed, got false"),
        ("#" * (4 * 1024 * 1024 + 1), "more than 4 MiB"),
        ("\u00e4" * (2 * 1024 * 1024 + 1), "more than 4 MiB"),
    ],
)
def test_what_is_not_needed_of_yaml_is_refused_with_its_line(text: str, fault: str) -> None:
    assert faults(text)[0].startswith(fault)


def test_tags_of_the_core_schema_are_taken() -> None:
    text = f"keys: !!seq [!!map {{id: !!str 7, owner: !!int 8, digest: {DIGEST}, scopes: [], plan: !!null '',"
    text += " disabled: !!bool true}]"

    [found] = parse(text).keys
    assert (found.id, found.owner, found.plan, found.disabled) == ("7", "8", None, True)


def test_yes_and_no_are_texts_as_yaml_1_2_has_it() -> None:
    assert parse("roles: {no: [], null: [], true: []}").roles.keys() == {"no", "null", "true"}


# Files.


def test_a_file_is_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_text("owner: J\u00f6rg\n", encoding="utf-8")

    assert file.read(path) == file.read(str(path)) == "owner: J\u00f6rg\n"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"a\n\xff", "line 2: not UTF-8"),
        ("a".encode("utf-16"), "line 1: not UTF-8"),
        (b"#" * (4 * 1024**2 + 1), "more than 4 MiB"),
    ],
)
def test_a_file_that_is_no_text_is_a_fault(tmp_path: Path, data: bytes, fault: str) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_bytes(data)

    with pytest.raises(AccountsFault, match=fault):
        file.read(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(AccountsFault, match="not a file"):
            file.read(path)
    with pytest.raises(FileNotFoundError):
        file.read(tmp_path / "absent")


# Whatever it is, it is accounts or a fault.

_WORDS = st.sampled_from(
    [
        *file.SECTIONS,
        *user(),
        *key(),
        "disabled",
        "plan",
        "expires",
        "tokens_after",
        "rate",
        "quota",
        "reader",
    ]
)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | _WORDS
    | st.sampled_from(
        [HASH, DIGEST, "buckets:read", "ann@example.com", "2027-01-01", "10 per day", "0001-01-01"]
    )
    | st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "10 per minute", "9e999"])
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)


def judged(text: str) -> None:
    try:
        told = [str(len(parse(text).users))]
    except AccountsFault as error:
        told = error.faults
    assert told
    assert all(isinstance(each, str) and each for each in told)


@settings(max_examples=120, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="&*!%?:-[]{}\"'|>#,. \n\t\\~<=axn0_\ufeff\u2028", max_size=40))
def test_any_text_is_accounts_or_a_fault(text: str) -> None:
    judged(text)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(st.sampled_from(file.SECTIONS), _TREES) | _TREES)
def test_any_structure_is_accounts_or_a_fault(tree: Any) -> None:
    judged(json.dumps(tree))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_WORDS, _SCALARS, max_size=7), st.dictionaries(_WORDS, _SCALARS, max_size=7))
def test_any_fields_are_accounts_or_a_fault(of_user: dict[str, Any], of_key: dict[str, Any]) -> None:
    judged(written(users=[user(**of_user), user()], keys=[key(**of_key), key()]))
