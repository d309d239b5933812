"""Callers of a gateway that asks who they are: accounts, logins, keys, and an operator's command line."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from main_api.accounts.api_keys import NewKey, new_key
from main_api.accounts.passwords import Passwords
from tests.end_to_end.processes import HOST, ROOT, Answer, until
from tests.faults import load

PASSWORD = "canary-password-7c1f"
SECRET = "canary-signing-secret-0123456789abcdef"
INTERNAL_TOKEN = "canary-internal-token-81b2"
USERS = ("ann", "bob", "eve")


@dataclass
class Callers:
    """An accounts file with a few users, and a key for each plan and some without one, by name."""

    path: Path
    keys: dict[str, NewKey] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        """Give the settings of a gateway that lets them in."""
        return {
            "AUTHENTICATION": "required",
            "ACCOUNTS_FILE": str(self.path),
            "INTERNAL_TOKEN": INTERNAL_TOKEN,
            "JWT_SECRET": SECRET,
            "LOGIN_RATE_LIMIT": "100000 per minute",
            **more,
        }

    def key(self, name: str) -> dict[str, str]:
        """Give the header of somebody with that key."""
        return {"X-API-Key": self.keys[name].text}


def callers(path: Path, *names: str, plans: Mapping[str, str] | None = None) -> Callers:
    """Write the file: keys of these ``names``, and one of each plan, whose value is its rate."""
    plans = plans or {}
    made = Callers(path, {name: new_key() for name in (*names, *plans)})
    password = Passwords().hash(PASSWORD)
    scopes = ["buckets:read", "parameters:read", "parameters:decrypt"]
    facts = {
        "roles": {"all": scopes},
        "plans": {name: {"rate": rate} for name, rate in plans.items()},
        "users": [
            {"id": f"u_{name}", "email": f"{name}@example.com", "role": "all", "password": password}
            for name in USERS
        ],
        "keys": [
            {"id": f"k_{name}", "owner": name, "digest": key.digest, "scopes": scopes}
            | ({"plan": name} if name in plans else {})
            for name, key in made.keys.items()
        ],
    }
    path.write_text(json.dumps(facts, indent=1))
    return made


def post(port: int, target: str, body: object = None, **headers: str) -> Answer:
    """Post JSON, or nothing, over a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    begun = time.monotonic()
    try:
        if body is None:
            connection.request("POST", target, headers=named)
        else:
            connection.request(
                "POST", target, json.dumps(body), {"Content-Type": "application/json", **named}
            )
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read(), time.monotonic() - begun)
    finally:
        connection.close()


def login(port: int, name: str = "ann", **headers: str) -> Answer:
    """Log in as one of the users."""
    return post(port, "/auth/login", {"email": f"{name}@example.com", "password": PASSWORD}, **headers)


def token(port: int, name: str = "ann") -> str:
    """Log in, and give the token; again where Redis was too late, as it is on a busy machine."""

    def given() -> str | None:
        answer = login(port, name)
        assert answer.status in (200, 503), answer.body
        return str(answer.json["token"]) if answer.status == 200 else None

    return str(until(given, "a token", 10))


def command(*arguments: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``main-api accounts`` as an operator does, with these settings alone."""
    return subprocess.run(
        [sys.executable, "-m", "main_api.cli", "accounts", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def under_load(
    port: int, target: load.Targets, headers: Mapping[str, str], rate: float
) -> Iterator[load.Result]:
    """Send ``rate`` requests a second while the block lasts; what came of them is there when it has ended."""
    over, found, result = threading.Event(), [], load.Result()
    loading = threading.Thread(
        target=lambda: found.append(
            load.open_loop(port, target, rate, 120, 128, headers=headers, until=over.is_set)
        )
    )
    loading.start()
    try:
        yield result
    finally:
        over.set()
        loading.join()
        vars(result).update(*map(vars, found))
