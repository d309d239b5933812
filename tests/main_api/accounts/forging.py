"""Keys to sign with, and tokens put together by hand, right or wrong."""

import base64
import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

SECRET = "kP3v-9sLq2_Zx8Tn5Rw1Yb6Hc4Md7Jf0Ug"
OTHER_SECRET = "Qe7r-2mVt5_Ac9Xk1Lz8Nd3Ws6Gp0Bh4Yu"
NOW = 1_700_000_000.0

ALGORITHMS = jwt.algorithms.get_default_algorithms()


@cache
def _key(kind: Any, number: int, more: Any = None) -> Any:
    made = {rsa: lambda: rsa.generate_private_key(65537, more), ec: lambda: ec.generate_private_key(more())}
    return made.get(kind, ed25519.Ed25519PrivateKey.generate)()


def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Give the same key each time for the same number."""
    return _key(rsa, number, bits)


def ec_key(number: int = 0, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    """Give the same key each time for the same number."""
    return _key(ec, number, curve)


def ed_key(number: int = 0) -> ed25519.Ed25519PrivateKey:
    """Give the same key each time for the same number."""
    return _key(ed25519, number)


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public_pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def public_der(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def jwk(key: Any, kid: str | None = "k1", **more: Any) -> dict[str, Any]:
    """Give the public half as a JWK; a None among ``more`` takes the member away."""
    name = {"R": "RS256", "E": "ES256"}[type(key).__name__.lstrip("_")[0]]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        name = "EdDSA"
    made = dict(ALGORITHMS[name].to_jwk(key.public_key(), as_dict=True))
    made.pop("key_ops", None)
    made = {**made, "use": "sig", "kid": kid, **more}
    return {name: value for name, value in made.items() if value is not None}


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def part(content: Any) -> str:
    """Encode bytes and texts as they are, anything else as JSON."""
    if not isinstance(content, bytes | str):
        content = json.dumps(content)
    return encoded(content.encode() if isinstance(content, str) else content)


Sign = Callable[[bytes], bytes]


def signer(algorithm: str, key: Any) -> Sign:
    """Sign by PyJWT's own algorithm, without what it checks of the key."""
    return lambda message: bytes(ALGORITHMS[algorithm].sign(message, key))


def forge(header: Any, claims: Any, sign: Sign) -> str:
    message = f"{part(header)}.{part(claims)}"
    return f"{message}.{encoded(sign(message.encode()))}"


def header_of(token: str) -> dict[str, Any]:
    return dict(json.loads(decoded(token.split(".")[0])))


def claims_of(token: str) -> dict[str, Any]:
    return dict(json.loads(decoded(token.split(".")[1])))


def without(mapping: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


# `jwt` has no say in what time it is: whoever reads the real clock is found out.
assert abs(time.time() - NOW) > 86400
