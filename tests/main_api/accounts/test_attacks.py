"""Whatever is done to a token, whoever is not its issuer gets nothing but one sentence.

Each attack is driven against our own tokens, of each kind of key, and against those of others. Many are
signed with the right key, so that it is the rule itself that refuses them and not the signature.
"""

import hashlib
import hmac
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from chassis.errors import Unauthenticated
from main_api.accounts.issuers import OthersTokens, Tokens
from main_api.accounts.signing import SigningKeys
from main_api.accounts.tokens import OwnTokens
from main_api.issuer_fields import Issuer
from tests.main_api.accounts.forging import (
    NOW,
    OTHER_SECRET,
    SECRET,
    Sign,
    claims_of,
    decoded,
    ec_key,
    encoded,
    forge,
    header_of,
    jwk,
    part,
    pem,
    public_der,
    public_pem,
    rsa_key,
    signer,
    without,
)
from tests.main_api.policies.fakes import Clock

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
RS_ISSUER, ES_ISSUER = "https://rs.example.com/", "https://es.example.com/"


@dataclass(frozen=True)
class Target:
    """A verifier, a good token of it, and the key that has signed it."""

    tokens: Tokens
    token: str
    algorithm: str
    key: Any

    @property
    def header(self) -> dict[str, Any]:
        return header_of(self.token)

    @property
    def claims(self) -> dict[str, Any]:
        return claims_of(self.token)

    @property
    def parts(self) -> list[str]:
        return self.token.split(".")

    @property
    def sign(self) -> Sign:
        return signer(self.algorithm, self.key)

    def with_header(self, **more: Any) -> str:
        return forge({**self.header, **more}, self.claims, self.sign)

    def with_claims(self, **more: Any) -> str:
        return forge(self.header, {**self.claims, **more}, self.sign)

    def raw(self, header: Any = None, claims: Any = None) -> str:
        """Sign, rightly, a header or claims of any bytes."""
        return forge(
            self.header if header is None else header, self.claims if claims is None else claims, self.sign
        )


class Keys:
    """The key set of one issuer."""

    def __init__(self, key: Any) -> None:
        self._key = key.public_key()

    def key(self, kid: str | None) -> Any:
        return self._key if kid == "k1" else None


def others() -> OthersTokens:
    named = [(RS_ISSUER, "RS256", rsa_key()), (ES_ISSUER, "ES256", ec_key())]
    issuers = [
        Issuer(issuer=name, audiences=frozenset(("api",)), jwks=f"{name}jwks", algorithm=algorithm)
        for name, algorithm, _ in named
    ]
    keys = {name: Keys(key) for name, _, key in named}
    return OthersTokens(issuers, keys.__getitem__, clock=Clock(NOW))


NAMES = ("own HS256", "own RS256", "own ES256", "other's RS256", "other's ES256")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    folder: Path = tmp_path_factory.mktemp("keys")
    (folder / "rsa.pem").write_bytes(pem(rsa_key()))
    (folder / "ec.pem").write_bytes(pem(ec_key()))
    own = (
        (SigningKeys.from_secrets([SECRET]), SECRET.encode()),
        (SigningKeys.from_files([folder / "rsa.pem"]), rsa_key()),
        (SigningKeys.from_files([folder / "ec.pem"]), ec_key()),
    )
    made = []
    for keys, key in own:
        tokens = OwnTokens(keys, clock=Clock(NOW))
        token, _ = tokens.issue("u-1", "reader")
        made.append(Target(Tokens(tokens, others()), token, keys.current.algorithm, key))
    for name, algorithm, key in ((RS_ISSUER, "RS256", rsa_key()), (ES_ISSUER, "ES256", ec_key())):
        claims = {"iss": name, "aud": "api", "sub": "s", "iat": NOW, "exp": NOW + 60, "scope": "buckets:read"}
        token = forge({"alg": algorithm, "kid": "k1", "typ": "JWT"}, claims, signer(algorithm, key))
        own_tokens = OwnTokens(SigningKeys.from_secrets([OTHER_SECRET]), clock=Clock(NOW))
        made.append(Target(Tokens(own_tokens, others()), token, algorithm, key))
    return dict(zip(NAMES, made, strict=True))


@pytest.fixture(params=NAMES)
def target(request: pytest.FixtureRequest, targets: dict[str, Target]) -> Target:
    return targets[request.param]


def is_refused(target: Target, token: str, what: object = "") -> None:
    try:
        target.tokens.verify(token)
    except Unauthenticated as error:
        # Neither "expired" nor any other word of why.
        assert type(error) is Unauthenticated, what  # noqa: PT017 - of hundreds, the one must be named
        assert str(error) == "The token is not valid", what  # noqa: PT017
        # What was found wrong is in no traceback either.
        assert error.__suppress_context__ or error.__context__ is None, what  # noqa: PT017
    else:
        pytest.fail(f"taken: {what or token!r}")


def test_the_good_tokens_are_good_and_so_are_those_that_are_put_together_here(target: Target) -> None:
    for token in (target.token, target.raw(), target.with_claims(more=1), target.with_header(x=1)):
        assert target.tokens.verify(token).subject


# The algorithm.


def spellings_of_none() -> Iterator[object]:
    yield from map("".join, itertools.product("nN", "oO", "nN", "eE"))
    yield from (
        "",
        " none",
        "none ",
        "none\0",
        "\uff4eone",
        "n\u043ene",
        "null",
        None,
        False,
        True,
        0,
        [],
        {},
        ["none"],
    )


def test_alg_none_in_every_spelling(target: Target) -> None:
    for alg in spellings_of_none():
        for signature in ("", "AA", target.parts[2]):
            message = f"{part({**target.header, 'alg': alg})}.{target.parts[1]}"
            is_refused(target, f"{message}.{signature}", alg)
        is_refused(target, target.with_header(alg=alg), alg)


def test_the_algorithm_of_the_key_is_meant_to_the_letter(target: Target) -> None:
    algorithm = target.algorithm
    for alg in (algorithm.lower(), f"{algorithm} ", f"{algorithm}\0", [algorithm], {algorithm: 1}, None):
        is_refused(target, target.with_header(alg=alg), alg)
    is_refused(target, target.raw(header=without(target.header, "alg")))


def test_another_algorithm_with_the_right_key(target: Target) -> None:
    families = {
        "HS256": ("HS384", "HS512"),
        "RS256": ("RS384", "RS512", "PS256", "PS384", "PS512"),
        "ES256": ("ES384", "ES512", "ES256K"),
    }
    for alg in families[target.algorithm]:
        is_refused(target, forge({**target.header, "alg": alg}, target.claims, signer(alg, target.key)), alg)
        is_refused(target, target.with_header(alg=alg), alg)


def test_a_public_key_as_a_secret(target: Target) -> None:
    if target.algorithm == "HS256":
        public = [b"", b"\0" * 32, b"secret", target.header["kid"].encode(), part(target.header).encode()]
    else:
        listed = [public_pem(target.key), public_der(target.key)]
        as_jwk = jwk(target.key, kid=None, use=None)
        forms = [json.dumps(as_jwk), json.dumps(as_jwk, separators=(",", ":"), sort_keys=True)]
        listed += [each.encode() for each in forms]
        listed += [decoded(value) for name, value in as_jwk.items() if name in ("n", "e", "x", "y")]
        public = (
            listed + [each.strip() for each in listed] + [each.replace(b"\n", b"\r\n") for each in listed]
        )
    for secret, alg in itertools.product(public, ("HS256", "HS384", "HS512")):

        def sign(message: bytes, secret: bytes = secret, alg: str = alg) -> bytes:
            return hmac.new(secret, message, getattr(hashlib, f"sha{alg[2:]}")).digest()

        is_refused(target, forge({**target.header, "alg": alg}, target.claims, sign), (alg, secret))


# The signature.


def test_signatures_that_are_blank_cut_off_flipped_or_another_ones(target: Target) -> None:
    header, claims, signature = target.parts
    raw = decoded(signature)
    other = target.with_claims(sub="another").split(".")[2]
    wrong = [
        b"",
        b"\0",
        b"\0" * len(raw),
        b"\xff" * len(raw),
        raw[:-1],
        raw[1:],
        raw + b"\0",
        raw[::-1],
        raw * 2,
    ]
    wrong += [raw[: len(raw) // 2], decoded(other), hashlib.sha256(f"{header}.{claims}".encode()).digest()]
    wrong += [
        bytes([*raw[:at], raw[at] ^ bit, *raw[at + 1 :]]) for at in range(len(raw)) for bit in (1, 0x80)
    ]
    for each in wrong:
        is_refused(target, f"{header}.{claims}.{encoded(each)}", each)


def test_parts_swapped_between_two_good_tokens(target: Target) -> None:
    one, other = target.parts, target.with_claims(sub="another", role="admin").split(".")
    for chosen in itertools.product((one, other), repeat=3):
        token = ".".join(each[at] for at, each in enumerate(chosen))
        if token not in (".".join(one), ".".join(other)) and chosen[1] is not chosen[2]:
            is_refused(target, token)
    for order in itertools.permutations(one):
        if list(order) != one:
            is_refused(target, ".".join(order))


def test_an_ecdsa_signature_of_zeros_and_its_like(target: Target) -> None:
    numbers = (0, 1, P256_ORDER - 1, P256_ORDER, P256_ORDER + 1, 2**256 - 1)
    for r, s in itertools.product(numbers, repeat=2):
        raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        is_refused(target, f"{target.parts[0]}.{target.parts[1]}.{encoded(raw)}", (r, s))
    for der in ("3006020100020100", "3006020101020101", "3000", "30"):
        is_refused(target, f"{target.parts[0]}.{target.parts[1]}.{encoded(bytes.fromhex(der))}", der)


# The key.


def test_a_key_that_the_token_brings_along(target: Target) -> None:
    for key, alg in ((rsa_key(1), "RS256"), (ec_key(1), "ES256"), (OTHER_SECRET.encode(), "HS256")):
        brought = {"kty": "oct", "k": encoded(key)} if isinstance(key, bytes) else jwk(key)
        for header in (
            {"jwk": brought},
            {"jwk": brought, "kid": brought.get("kid")},
            {"jku": "https://evil.example.com/jwks.json"},
            {"x5u": "https://evil.example.com/chain.pem"},
            {"x5c": ["MIIB"]},
            {"jwk": None},
            {"jwk": {}},
        ):
            forged = {**target.header, "alg": alg, **header}
            is_refused(target, forge(forged, target.claims, signer(alg, key)), header)
            # The right signature does not make it better: somebody must mean something by it.
            is_refused(target, target.with_header(**{k: v for k, v in header.items() if k != "kid"}), header)


def test_names_of_keys_that_are_paths_questions_and_addresses(target: Target) -> None:
    for kid in (
        "",
        "/dev/null",
        "../../../../dev/null",
        "file:///etc/passwd",
        "https://evil.example.com/key",
        "' OR '1'='1",
        "x' UNION SELECT 'secret'--",
        "$(id)",
        "k1\0",
        "k1\n",
        " k1",
        "K1",
        "a" * 129,
        "a" * 4000,
        "\u202ek1",
        "\ud800",
        None,
        True,
        0,
        [target.header["kid"]],
        {"kid": target.header["kid"]},
    ):
        is_refused(target, target.with_header(kid=kid), kid)
        empty = {**target.header, "kid": kid, "alg": "HS256"}
        is_refused(target, forge(empty, target.claims, lambda m: hmac.new(b"", m, "sha256").digest()), kid)
    is_refused(target, target.raw(header=without(target.header, "kid")))


def test_the_key_of_another(target: Target, targets: dict[str, Target]) -> None:
    for other in targets.values():
        if (other.algorithm, other.key) == (target.algorithm, target.key):
            continue
        for header in (other.header, {**other.header, "kid": target.header["kid"]}, target.header):
            is_refused(target, forge(header, target.claims, other.sign), (other.algorithm, header))
    for key, alg in ((rsa_key(1), "RS256"), (ec_key(1), "ES256"), (OTHER_SECRET.encode(), "HS256")):
        for header in (target.header, {**target.header, "alg": alg}):
            is_refused(target, forge(header, target.claims, signer(alg, key)), (alg, header))


def test_a_token_of_ours_is_none_of_another_issuers_and_the_other_way_round(
    targets: dict[str, Target],
) -> None:
    own, other = targets["own RS256"], targets["other's RS256"]
    # The same key, as it must never be: the names and the audience still keep them apart.
    assert own.key is other.key
    for tokens in (own.tokens, other.tokens):
        for one, two in ((own, other), (other, own)):
            is_refused(Target(tokens, one.token, "RS256", one.key), one.with_claims(iss=two.claims["iss"]))
            is_refused(
                Target(tokens, one.token, "RS256", one.key),
                forge(two.header, {**one.claims, "iss": two.claims["iss"]}, one.sign),
            )


# The header.


def test_parameters_that_change_what_is_signed(target: Target) -> None:
    for header in (
        {"crit": ["b64"], "b64": True},
        {"crit": ["b64"], "b64": False},
        {"b64": True},
        {"b64": False},
        {"crit": []},
        {"crit": ["exp"], "exp": 1},
        {"crit": ["http://example.com/UNDEFINED"], "http://example.com/UNDEFINED": True},
        {"crit": None},
        {"crit": "b64"},
        {"zip": "DEF"},
    ):
        is_refused(target, target.with_header(**header), header)
    detached = part({**target.header, "b64": False, "crit": ["b64"]})
    signature = encoded(target.sign(f"{detached}.{json.dumps(target.claims)}".encode()))
    for payload in ("", part(target.claims), json.dumps(target.claims)):
        is_refused(target, f"{detached}.{payload}.{signature}", payload)


def test_types_that_are_no_access_tokens(target: Target) -> None:
    for kind in (
        "JWE",
        "JOSE",
        "logout+jwt",
        "dpop+jwt",
        "secevent+jwt",
        "at+jwt ",
        "",
        None,
        1,
        ["JWT"],
        {},
    ):
        is_refused(target, target.with_header(typ=kind), kind)


# The claims.

NO_MOMENTS = (
    *(
        "",
        "1700003600",
        "1700003600.0",
        "2099-01-01T00:00:00Z",
        None,
        True,
        False,
        [1700003600],
        {"t": 1700003600},
    ),
    *(-1, -(10**400), 10**400, 10**4000),
)
NO_MOMENTS_IN_WRITING = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "-1",
    "9" * 5000,
    "0x7fffffff",
    "017",
)


def test_times_that_are_no_times(target: Target) -> None:
    for name, value in itertools.product(("exp", "iat", "nbf"), NO_MOMENTS):
        is_refused(target, target.with_claims(**{name: value}), (name, str(value)[:20]))
    for name, text in itertools.product(("exp", "iat", "nbf"), NO_MOMENTS_IN_WRITING):
        body = json.dumps(without(target.claims, name))[:-1] + f', "{name}": {text}}}'
        is_refused(target, target.raw(claims=body), (name, text[:20]))


def test_times_that_are_none_for_us(target: Target) -> None:
    for claims in (
        {"exp": NOW + 86400 * 365},
        {"exp": 2**31 - 1},
        {"exp": 2**53},
        {"exp": 1e300},
        {"exp": NOW * 1000},
        {"iat": NOW + 31},
        {"iat": NOW + 3600, "exp": NOW + 3700},
        {"iat": 0},
        {"nbf": NOW + 31},
        {"nbf": 1e300},
        {"exp": 0},
        {"exp": NOW, "iat": NOW},
    ):
        is_refused(target, target.with_claims(**claims), claims)
    for name in ("exp", "iat"):
        is_refused(target, target.raw(claims=without(target.claims, name)), name)


def test_audiences_and_issuers_that_are_not_meant(target: Target) -> None:
    aud, iss = target.claims["aud"], target.claims["iss"]
    wrong_audiences = [
        "other",
        f"{aud} ",
        aud.upper(),
        f"{aud}\0",
        "",
        [],
        [[aud]],
        [aud, 1],
        {aud: 1},
        None,
        True,
    ]
    for value in wrong_audiences:
        is_refused(target, target.with_claims(aud=value), value)
    wrong_issuers = [
        f"{iss} ",
        f" {iss}",
        iss.upper(),
        iss[:-1],
        f"{iss}/",
        f"{iss}\0",
        [iss],
        {iss: 1},
        None,
        "",
    ]
    confusables = {"e": "\u0435", "a": "\u0430", "i": "\u0456", "/": "\u2215", "-": "\u2010", ".": "\u3002"}
    wrong_issuers += [iss.replace(one, other) for one, other in confusables.items() if one in iss]
    wrong_issuers += [
        f"{iss}\u200b",
        f"\ufeff{iss}",
        f"{iss}\u202e",
        "\ud83d",
        "https://evil.example.com/",
        "a" * 513,
    ]
    for value in wrong_issuers:
        is_refused(target, target.with_claims(iss=value), value)
    for name in ("aud", "iss"):
        is_refused(target, target.raw(claims=without(target.claims, name)), name)


def test_subjects_that_are_none(target: Target) -> None:
    wrong = ["", "a" * 257, "a\nb", "a\0", "\u202e", "\ud800", None, 1, True, ["a"], {"a": 1}, float("nan")]
    for value in wrong:
        is_refused(target, target.with_claims(sub=value), value)
    is_refused(target, target.raw(claims=without(target.claims, "sub")))


# The form.


def duplicated(content: dict[str, Any], name: str, value: object) -> Iterator[str]:
    written = json.dumps(content)
    # The last one counts for one reader, the first one for another; also under its other spelling.
    yield f'{{"{name}": {json.dumps(value)}, {written[1:]}'
    yield f'{written[:-1]}, "{name}": {json.dumps(value)}}}'
    yield f'{written[:-1]}, "\\u{ord(name[0]):04x}{name[1:]}": {json.dumps(value)}}}'


def test_names_that_stand_twice(target: Target) -> None:
    for name, value in (("sub", "admin"), ("exp", NOW + 60), ("aud", target.claims["aud"]), ("iss", "x")):
        for text in duplicated(target.claims, name, value):
            is_refused(target, target.raw(claims=text), text)
    for name, value in (("alg", "none"), ("alg", target.algorithm), ("kid", target.header["kid"])):
        for text in duplicated(target.header, name, value):
            is_refused(target, target.raw(header=text), text)
    inner = json.dumps(target.claims)[:-1] + ', "a": {"b": [{"c": 1, "c": 2}]}}'
    is_refused(target, target.raw(claims=inner))


def test_content_that_is_no_object_in_utf_8(target: Target) -> None:
    for name, good in (("header", target.header), ("claims", target.claims)):
        written = json.dumps(good)
        for content in (
            b"{}",
            b"[]",
            b"null",
            b"1",
            b'"text"',
            b"not json",
            b"\xff\xfe",
            f"[{written}]",
            f"{written}x",
            f"{written}{written}",
            written[:-1],
            "\ufeff" + written,
            written.encode("utf-16"),
            written.encode("utf-16-le"),
            written.encode("utf-32-be"),
            written.replace("{", "{/**/"),
            written.replace('"', "'"),
            written[:-1] + ",}",
            written[:-1] + ', "x": "\t"}',
            written[:-1] + ', "x": "\x00"}',
            written[:-1].encode() + b', "x": "\xc0\xaf"}',
            written[:-1].encode() + b', "x": "\xed\xa0\x80"}',
            written[:-1] + ', "x": NaN}',
        ):
            is_refused(target, target.raw(**{name: content}), (name, content))


def test_what_is_too_deep_too_much_or_too_long(target: Target) -> None:
    written = json.dumps(target.claims)[:-1]

    def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
        return target.raw(claims=f'{written}, "x": {opening * levels}1{closing * levels}}}')

    assert target.tokens.verify(nested(7)).subject
    is_refused(target, nested(8))
    is_refused(target, nested(8, '{"a":', "}"))
    is_refused(target, nested(2500))
    is_refused(target, target.raw(claims="[" * 5500))
    is_refused(target, target.raw(header='{"a":' * 1000))
    most = {**{f"x{number}": 1 for number in range(100 - len(target.claims))}}
    assert target.tokens.verify(target.with_claims(**most)).subject
    is_refused(target, target.with_claims(**most, more=1))
    # A text whose token has 8192 bytes, or as few less as its encoding allows.
    room = 8192 - len(target.with_claims(x=""))
    assert target.tokens.verify(target.with_claims(x="y" * (room * 3 // 4 - 2))).subject
    is_refused(target, target.with_claims(x="y" * (room * 3 // 4 + 3)))
    is_refused(target, target.with_claims(x="y" * 10**6))


def test_what_is_no_three_parts(target: Target) -> None:
    header, claims, signature = target.parts
    token = target.token
    for text in (
        *(
            "",
            ".",
            "..",
            "...",
            "a",
            "a.b",
            "a.b.c",
            "....",
            header,
            f"{header}.{claims}",
            f"{header}.{claims}.",
        ),
        *(
            f".{claims}.{signature}",
            f"{header}..{signature}",
            f"{token}.",
            f".{token}",
            f"{token}.{signature}",
        ),
        *(f"{token}{token}", f"{token}.{token}", f"{token},{token}", f"{token} {token}", f"{token}.a.b"),
        *(f"{header}.{claims}.{signature}.{header}.{claims}", f"Bearer {token}", f'"{token}"'),
        json.dumps({"protected": header, "payload": claims, "signature": signature}),
        json.dumps({"payload": claims, "signatures": [{"protected": header, "signature": signature}]}),
    ):
        is_refused(target, text)


def test_a_token_within_a_token(target: Target) -> None:
    is_refused(target, target.raw(claims=target.token))
    is_refused(target, target.raw(claims=json.dumps(target.token)))
    is_refused(target, forge({**target.header, "cty": "JWT"}, target.token, target.sign))


def test_spaces_padding_and_other_alphabets(target: Target) -> None:
    for at in range(3):
        for change in (
            *(
                lambda text, more=more: text + more
                for more in ("=", "==", "===", "=A", " ", "\n", "\t", "\0", "\r\n")
            ),
            *(lambda text, more=more: more + text for more in (" ", "\n", "\0", "=", "\ufeff")),
            *(
                lambda text, more=more: text[:8] + more + text[8:]
                for more in (" ", "\n", "=", "\0", "%", "\xe9", "\uff21")
            ),
            lambda text: text.replace("-", "+").replace("_", "/") + "/",
        ):
            parts = target.parts
            parts[at] = change(parts[at])
            is_refused(target, ".".join(parts), parts[at])
    for dot in ("\u3002", "\uff0e", "\u2024", "%2E", ",", " "):
        is_refused(target, dot.join(target.parts), dot)
    is_refused(target, f" {target.token}")
    is_refused(target, f"{target.token}\n")


def non_canonical(text: str) -> Iterator[str]:
    spare = {2: 16, 3: 4}.get(len(text) % 4, 1)
    first = ALPHABET.index(text[-1]) // spare * spare
    return (text[:-1] + ALPHABET[first + more] for more in range(1, spare))


def test_another_text_for_the_same_bytes(target: Target) -> None:
    tried = 0
    # One of three lengths has no bits to spare: the claims are made as long as it takes.
    for filler in ("", "y", "yy"):
        parts = target.with_claims(x=filler).split(".")
        for at in range(3):
            for text in non_canonical(parts[at]):
                assert decoded(text) == decoded(parts[at])
                is_refused(target, ".".join([*parts[:at], text, *parts[at + 1 :]]), text)
                tried += 1
    assert tried > 15


def test_a_part_whose_length_no_bytes_have(target: Target) -> None:
    for at in range(3):
        parts = target.parts
        parts[at] = parts[at][: len(parts[at]) // 4 * 4] + "A"
        is_refused(target, ".".join(parts))


# Everything else.

FUZZ = hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WILD = st.text(max_size=80) | st.binary(max_size=80).map(lambda data: data.decode("latin-1"))
PARTS = st.lists(WILD.map(part) | WILD | st.text(ALPHABET, max_size=20), min_size=2, max_size=4)


@given(text=WILD | PARTS.map(".".join) | st.text(st.characters(codec=None), max_size=30))
@FUZZ
def test_any_text_is_refused(target: Target, text: str) -> None:
    is_refused(target, text)


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[str], str]:
    where = draw(st.floats(0, 1, exclude_max=True))
    cut = draw(st.integers(0, 3))
    put = draw(st.text(ALPHABET + ".=", max_size=3) | st.text(max_size=2))
    return lambda token: token[: int(where * len(token))] + put + token[int(where * len(token)) + cut :]


@given(change=st.lists(mutations(), min_size=1, max_size=3))
@FUZZ
def test_any_change_of_a_good_token_is_refused(target: Target, change: list[Callable[[str], str]]) -> None:
    token = target.token
    for each in change:
        token = each(token)
    if token != target.token:
        is_refused(target, token)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
HEADERS = st.sampled_from(("alg", "kid", "typ", "crit", "jwk", "b64", "zip", "cty"))
CLAIMS = st.sampled_from(
    ("iss", "aud", "sub", "exp", "iat", "nbf", "role", "scope", "azp", "client_id", "typ")
)


@given(
    header=st.dictionaries(HEADERS, VALUES, max_size=2), claims=st.dictionaries(CLAIMS, VALUES, max_size=3)
)
@FUZZ
def test_any_content_with_the_right_signature_raises_nothing_else(
    target: Target, header: dict[str, Any], claims: dict[str, Any]
) -> None:
    token = forge({**target.header, **header}, {**target.claims, **claims}, target.sign)
    try:
        verified = target.tokens.verify(token)
    except Unauthenticated:
        return
    # Whatever was taken still says the things that it must.
    assert verified.subject
    assert NOW < verified.expires <= NOW + 86400 + 60


@given(header=VALUES, claims=VALUES, signature=st.binary(max_size=8))
@FUZZ
def test_any_content_is_refused(target: Target, header: Any, claims: Any, signature: bytes) -> None:
    is_refused(target, f"{part(header)}.{part(claims)}.{encoded(signature)}")
