"""Accounts for tests: users and keys with every set of scopes that matters, and an issuer besides."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from main_api.accounts.api_keys import NewKey, new_key
from main_api.accounts.passwords import Passwords
from main_api.scopes import SCOPES

PASSWORD = "canary-password-7c1f"
SECRET = "canary-signing-secret-0123456789abcdef"
INTERNAL = "canary-internal-token-81b2"
ISSUER = "https://issuer.example/"
AUDIENCE = "https://gateway.example"
KID = "of-the-issuer"

# Every role is a user, a key and a claim of the issuer's, of the same name.
ROLES: Mapping[str, tuple[str, ...]] = {
    "nothing": (),
    "buckets": ("buckets:read",),
    "parameters": ("parameters:read",),
    "narrow": ("parameters:read:/database/**",),
    "decrypter": ("parameters:read", "parameters:decrypt"),
    "operator": ("gateway:operate",),
    "admin": SCOPES,
}


@dataclass
class People:
    """An accounts file, what is needed to log in as its users, and its keys by role."""

    path: Path
    keys: dict[str, NewKey] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        """Give the settings of a gateway that lets them in, and of an auxiliary that believes it."""
        issuers = [
            {
                "issuer": ISSUER,
                "audience": AUDIENCE,
                "jwks": "https://issuer.example/keys",
                "scopes": {"claim": "groups", "map": {name: list(scopes) for name, scopes in ROLES.items()}},
            }
        ]
        return {
            "AUTHENTICATION": "required",
            "ACCOUNTS_FILE": str(self.path),
            "INTERNAL_TOKEN": INTERNAL,
            "JWT_SECRET": SECRET,
            "JWT_ISSUERS": json.dumps(issuers),
            "ALLOW_DECRYPTION": "true",
            **more,
        }


def write(path: Path, **changes: Any) -> People:
    """Write the file; ``changes`` are fields of a user or a key, by its id."""
    people = People(path)
    password = Passwords().hash(PASSWORD)
    users, keys = [], []
    for role in ROLES:
        people.keys[role] = new_key()
        users.append(
            {"id": f"u_{role}", "email": f"{role}@example.com", "role": role, "password": password}
            | changes.get(f"u_{role}", {})
        )
        keys.append(
            {
                "id": f"k_{role}",
                "owner": role,
                "digest": people.keys[role].digest,
                "scopes": list(ROLES[role]),
            }
            | changes.get(f"k_{role}", {})
        )
    for extra, fields in (("disabled", {"disabled": True}), ("expired", {"expires": "2020-01-01"})):
        people.keys[extra] = new_key()
        keys.append(
            {"id": f"k_{extra}", "owner": extra, "digest": people.keys[extra].digest, "scopes": list(SCOPES)}
            | fields
        )
    roles = {name: list(scopes) for name, scopes in ROLES.items()}
    # JSON is YAML.
    path.write_text(json.dumps({"roles": roles, "users": users, "keys": keys}))
    return people


class Issuer:
    """Signs tokens as others do, and has the keys to check them."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def token(self, role: str, **claims: Any) -> str:
        """Make a token of somebody in the group of that name."""
        now = time.time()
        every = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": f"{role}-7",
            "iat": int(now),
            "exp": int(now) + 600,
            "groups": [role],
        }
        return jwt.encode(every | claims, self._key, "RS256", headers={"kid": KID})

    def key_set(self) -> bytes:
        """Give what it publishes."""
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return json.dumps({"keys": [public | {"kid": KID, "use": "sig", "alg": "RS256"}]}).encode()
