"""The keys that our own tokens are signed with: the first signs, all of them verify."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from jwt import InvalidKeyError
from jwt.algorithms import HMACAlgorithm

Private = RSAPrivateKey | EllipticCurvePrivateKey
Public = RSAPublicKey | EllipticCurvePublicKey

# RFC 7518, 3.2: as many as the hash has.
_SECRET_LEAST = 32
_DISTINCT_LEAST = 8
_PIECE_MOST = 16
_RSA_LEAST = 2048
_FILE_MOST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Key:
    """A key for one algorithm: ``verifying`` is the secret or the public key; ``signing`` may be missing.

    ``kid`` is made from the key, so that all replicas name it in the same way without being told.
    """

    kid: str
    algorithm: str
    verifying: Public | bytes = field(repr=False)
    signing: Private | bytes | None = field(repr=False)


class SigningKeys:
    """Our keys, the one that signs first. A new one is put before the others.

    Taking one away ends the tokens that it has signed. Raises :class:`ValueError`.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        if not keys or keys[0].signing is None:
            raise ValueError("the first key must be one that signs")
        self.current = keys[0]
        self._keys = {key.kid: key for key in reversed(keys)}

    @classmethod
    def from_secrets(cls, secrets: Sequence[str]) -> Self:
        """Make HS256 keys. Raises :class:`ValueError`, whose text has nothing of a secret in it."""
        return cls([_from_secret(secret.encode(), number) for number, secret in enumerate(secrets, 1)])

    @classmethod
    def from_files(cls, paths: Sequence[str | Path]) -> Self:
        """Make RS256 or ES256 keys from PEM files; all but the first may be public keys.

        Raises :class:`ValueError`, whose text names the file.
        """
        keys = [_from_file(Path(path)) for path in paths]
        if keys and keys[0].signing is None:
            raise ValueError(f"{paths[0]}: the first key must be a private one")
        return cls(keys)

    def key(self, kid: str | None) -> Key | None:
        """Give the key of that name."""
        return None if kid is None else self._keys.get(kid)

    def __repr__(self) -> str:
        return f"SigningKeys({', '.join(self._keys)})"


def _kid(algorithm: str, material: bytes) -> str:
    return hashlib.sha256(b"main-api token key " + algorithm.encode() + b"\0" + material).hexdigest()[:16]


def _from_secret(secret: bytes, number: int) -> Key:
    if len(secret) < _SECRET_LEAST:
        raise ValueError(f"secret number {number}: at least {_SECRET_LEAST} bytes are needed")
    repeats = any(secret[size:] == secret[:-size] for size in range(1, _PIECE_MOST + 1))
    if repeats or len(set(secret)) < _DISTINCT_LEAST:
        raise ValueError(f"secret number {number}: too easy to guess, take random characters")
    try:
        # It refuses what looks like a public key, which somebody may have put here by mistake.
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except InvalidKeyError:
        raise ValueError(f"secret number {number}: a key file, not a secret") from None
    return Key(_kid("HS256", secret), "HS256", secret, secret)


def _from_file(path: Path) -> Key:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_MOST)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    signing: object = None
    try:
        if b"PRIVATE KEY-" in data:
            signing = load_pem_private_key(data, password=None)
            verifying: object = signing.public_key()
        else:
            verifying = load_pem_public_key(data)
    except TypeError:
        raise ValueError(f"{path}: a key without a password is needed") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{path}: no PEM file of a private or public key") from None
    if isinstance(verifying, RSAPublicKey) and verifying.key_size >= _RSA_LEAST:
        algorithm = "RS256"
    elif isinstance(verifying, EllipticCurvePublicKey) and isinstance(verifying.curve, SECP256R1):
        algorithm = "ES256"
    else:
        raise ValueError(f"{path}: an RSA key of at least {_RSA_LEAST} bits or an EC key on P-256 is needed")
    spki = verifying.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = signing if isinstance(signing, Private) else None
    return Key(_kid(algorithm, spki), algorithm, verifying, private)
