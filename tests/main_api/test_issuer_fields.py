"""JWT_ISSUERS: what is taken, and that every fault names the issuer and the field."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from main_api.issuer_fields import ALGORITHMS, ISSUERS_MOST, Issuer, Issuers

LEAST = {
    "issuer": "https://tenant.eu.auth0.com/",
    "audience": "https://gateway.example.com",
    "jwks": "https://tenant.eu.auth0.com/.well-known/jwks.json",
}


def read(*entries: object) -> Any:
    return Issuers().deserialize(json.dumps(entries))


def faults(text: str) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Issuers().deserialize(text)
    assert isinstance(caught.value.messages, list)
    return [str(each) for each in caught.value.messages]


def fault(entry: object = None, **fields: object) -> str:
    [told] = faults(json.dumps([{**LEAST, **fields} if entry is None else entry]))
    return told


def test_three_fields_are_enough() -> None:
    [issuer] = read(LEAST)

    assert issuer == Issuer(
        issuer="https://tenant.eu.auth0.com/",
        audiences=frozenset(("https://gateway.example.com",)),
        jwks="https://tenant.eu.auth0.com/.well-known/jwks.json",
        algorithm="RS256",
        scopes_claim="scope",
        scopes_map=None,
        audience_claim="aud",
        client=None,
        max_lifetime=86400,
    )


def test_everything_may_be_set() -> None:
    [issuer] = read(
        {
            **LEAST,
            "audience": ["a", "b"],
            "algorithm": "ES256",
            "scopes": {
                "claim": "cognito:groups",
                "map": {"ops": ["gateway:operate", "parameters:read:/database/**"], "none": []},
            },
            "audience_claim": "client_id",
            "client": "console",
            "max_lifetime": 3600,
        }
    )

    assert (issuer.audiences, issuer.algorithm, issuer.client) == (frozenset("ab"), "ES256", "console")
    assert (issuer.audience_claim, issuer.max_lifetime) == ("client_id", 3600)
    assert issuer.scopes_claim == "cognito:groups"
    assert issuer.scopes_map == {
        "ops": {"gateway:operate", "parameters:read:/database/**"},
        "none": frozenset(),
    }


def test_the_claim_may_be_named_without_a_map() -> None:
    [issuer] = read({**LEAST, "scopes": {"claim": "permissions"}})

    assert (issuer.scopes_claim, issuer.scopes_map) == ("permissions", None)


def test_none_and_several_are_lists_too() -> None:
    assert read() == ()
    assert [each.issuer for each in read(LEAST, {**LEAST, "issuer": "https://b.test"})] == [
        "https://tenant.eu.auth0.com/",
        "https://b.test",
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_asymmetric_algorithms_are_taken(algorithm: str) -> None:
    assert read({**LEAST, "algorithm": algorithm})[0].algorithm == algorithm


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS512", "rs256", "ES512", "", None, 1, ["RS256"]])
def test_others_and_symmetric_ones_above_all_are_not(algorithm: object) -> None:
    assert fault(algorithm=algorithm).startswith("number 1, algorithm: ")


@pytest.mark.parametrize(
    "url",
    [
        "https://a.test",
        "https://a.test:8443/realms/x?y=z",
        "https://[2001:db8::1]/x",
        "http://localhost:8080/realms/x",
        "http://127.0.0.1:9/x",
        "http://127.8.8.8/x",
        "http://[::1]:9/x",
    ],
)
@pytest.mark.parametrize("field", ["issuer", "jwks"])
def test_an_address_is_kept_as_it_is(field: str, url: str) -> None:
    assert getattr(read({**LEAST, field: url})[0], field) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.test",
        "//a.test/x",
        "ftp://a.test/x",
        "file:///etc/passwd",
        "http://a.test/x",
        "http://10.0.0.1/x",
        "http://169.254.169.254/latest",
        "http://localhost.evil.test/x",
        "http://127.0.0.1.evil.test/x",
        "http://0.0.0.0/x",
        "https://user@a.test/x",
        "https://user:password@a.test/x",
        "https://a.test/x#y",
        "https://a.test/x#",
        "https://a.test:0/x",
        "https://a.test:99999/x",
        "https://a.test:x/x",
        "https://a test/x",
        "https://a.test/x|y",
        "https://a.test/\n",
        "https://ä.test/x",
        "https://[::1/x",
        "https:///x",
        "https://a.test/" + "x" * 512,
        1,
        None,
        ["https://a.test"],
    ],
)
@pytest.mark.parametrize("field", ["issuer", "jwks"])
def test_what_is_no_safe_address_is_a_fault(field: str, url: object) -> None:
    assert fault(**{field: url}).startswith(f"number 1, {field}: ")


@pytest.mark.parametrize("audience", ["", [], [""], None, 1, ["a", 1], {"a": 1}, "a" * 257])
def test_an_audience_is_a_text_or_several(audience: object) -> None:
    assert fault(audience=audience).startswith("number 1, audience: ")


@pytest.mark.parametrize("most", [0, 59, 31 * 86400 + 1, "x", None, 3600.5, True, [1]])
def test_a_lifetime_is_a_number_in_its_range(most: object) -> None:
    assert fault(max_lifetime=most).startswith("number 1, max_lifetime: ")


@pytest.mark.parametrize(
    ("scopes", "said"),
    [
        (
            {"map": {"ops": ["gateway:operat"]}},
            "scopes.map: 'gateway:operat' of 'ops' is no scope, did you mean",
        ),
        ({"map": {"ops": ["parameters:read:/../**"]}}, "scopes.map: 'parameters:read:/../**' of 'ops'"),
        ({"map": {"ops": [1]}}, "scopes.map: 1 of 'ops' is no scope"),
        ({"map": {"ops": "buckets:read"}}, "scopes.map: an object is needed"),
        ({"map": ["buckets:read"]}, "scopes.map: an object is needed"),
        ({"map": None}, "scopes.map: "),
        ({"claim": ""}, "scopes.claim: "),
        ({"claim": 1}, "scopes.claim: "),
        ({"clam": "x"}, "scopes.clam: unknown field, did you mean claim?"),
        ("scope", "scopes: "),
        (None, "scopes: "),
    ],
)
def test_a_fault_within_scopes_says_where(scopes: object, said: str) -> None:
    assert fault(scopes=scopes).startswith(f"number 1, {said}")


def test_an_unknown_field_is_told_with_the_nearest_one() -> None:
    assert fault(audiance="a") == "number 1, audiance: unknown field, did you mean audience?"
    assert fault(zzz=1).startswith("number 1, zzz: unknown field, there are issuer, audience, jwks, ")


@pytest.mark.parametrize("field", ["issuer", "audience", "jwks"])
def test_a_field_that_is_missing_is_missed(field: str) -> None:
    entry = {name: value for name, value in LEAST.items() if name != field}

    assert fault(entry).startswith(f"number 1, {field}: Missing")


def test_all_faults_are_told_at_once_each_with_its_number() -> None:
    told = faults(json.dumps([{**LEAST, "client": 1, "jwks": "x"}, 7, LEAST, LEAST, {}]))

    assert [each.split(": ")[0] for each in told] == [
        "number 1, jwks",
        "number 1, client",
        "number 2",
        "number 5, issuer",
        "number 5, audience",
        "number 5, jwks",
        "number 3, issuer",
        "number 4, issuer",
    ]
    assert told[-1] == "number 4, issuer: the same as number 1's"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{}",
        "null",
        '"https://a.test"',
        "[" * 100_000,
        "[NaN]",
        json.dumps([LEAST] * (ISSUERS_MOST + 1)),
        '[{"issuer":"https://a.test","issuer":"https://b.test"}]',
        "[" + "9" * 5000 + "]",
    ],
)
def test_what_is_no_list_is_one_fault(text: str) -> None:
    assert len(faults(text)) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("issuer", "audience", "jwks", "algorithm", "scopes", "audience_claim", "client", "max_lifetime", "x")


@given(st.lists(JSON | st.dictionaries(st.sampled_from(NAMES), JSON | st.sampled_from(list(LEAST.values())))))
@hypothesis_settings(max_examples=30, deadline=None)
def test_any_json_is_taken_or_is_a_fault(given_: list[Any]) -> None:
    made: tuple[object, ...] = ()
    with suppress(ValidationError):
        made = read(*given_)

    assert all(isinstance(each, Issuer) for each in made)
