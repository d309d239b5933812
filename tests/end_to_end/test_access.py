"""Who may call, and how often, by real processes: limits, the command line, an issuer, a start that fails."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from main_api.accounts.passwords import Passwords
from tests.end_to_end import stand_in
from tests.end_to_end.processes import HOST, ROOT, Answer, Server, free_port, request, until
from tests.end_to_end.stand_in import gateway_before

BUCKETS = "/api/s3/buckets"
PASSWORD = "canary horse battery"
AUDIENCE = "https://gateway.example"
AT_ONCE = 50
UPSTREAM = stand_in.answering(stand_in.body(b'{"success":true,"data":[],"count":0}'))


# How often.


def test_of_ten_times_the_limit_at_once_exactly_the_limit_passes() -> None:
    together = threading.Barrier(AT_ONCE)

    def ask(_: int) -> list[Answer]:
        together.wait(20)
        return [request(gateway.port, BUCKETS) for _ in range(10)]

    with (
        gateway_before(
            UPSTREAM, RATE_LIMIT_ENABLED="true", RATE_LIMIT="50 per hour", LOG_LEVEL="error"
        ) as gateway,
        ThreadPoolExecutor(AT_ONCE) as threads,
    ):
        begun = time.monotonic()
        answers = [answer for each in threads.map(ask, range(AT_ONCE)) for answer in each]
        took = time.monotonic() - begun

    assert Counter(answer.status for answer in answers) == {200: 50, 429: 450}
    for answer in answers:
        assert answer.headers["RateLimit-Policy"] == '"default";q=50;w=3600'
        kind, remaining, reset = str(answer.headers["RateLimit"]).split(";")
        assert kind == '"default"'
        if answer.status == 200:
            assert 0 <= int(remaining.removeprefix("r=")) < 50
            assert "Retry-After" not in answer.headers
        else:
            retry_after = int(answer.headers["Retry-After"])
            assert 3600 - took - 1 <= retry_after <= 3601
            assert (remaining, reset) == ("r=0", f"t={retry_after}")
            assert (answer.json["code"], answer.json["retryAfter"]) == ("rate_limited", retry_after)


# Who.


@dataclass
class Issuer:
    """Publishes a key set on the loopback, and signs tokens; its keys have numbers."""

    port: int = field(default_factory=free_port)
    keys: list[ec.EllipticCurvePrivateKey] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rotate()
        self.start()

    @property
    def setting(self) -> str:
        """JWT_ISSUERS."""
        where = f"http://{HOST}:{self.port}"
        return json.dumps(
            [{"issuer": where, "audience": AUDIENCE, "jwks": f"{where}/keys", "algorithm": "ES256"}]
        )

    def rotate(self) -> None:
        """Sign with another key from now on, and publish that one alone."""
        self.keys.append(ec.generate_private_key(ec.SECP256R1()))

    def token(self, number: int) -> str:
        """Make a token that nobody has seen, signed by the key of that number."""
        now = int(time.time())
        claims = {
            "iss": f"http://{HOST}:{self.port}",
            "aud": AUDIENCE,
            "sub": "batch-7",
            "scope": "buckets:read",
        }
        claims |= {"iat": now, "exp": now + 600, "jti": os.urandom(8).hex()}
        return jwt.encode(claims, self.keys[number], "ES256", headers={"kid": f"key-{number}"})

    def start(self) -> None:
        """Serve the newest key."""
        public = jwt.algorithms.ECAlgorithm.to_jwk(self.keys[-1].public_key(), as_dict=True)
        body = json.dumps({"keys": [public | {"kid": f"key-{len(self.keys) - 1}", "use": "sig"}]}).encode()
        fetched = self.fetched

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fetched.append(self.path)
                self.send_response(200 if self.path == "/keys" else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((HOST, self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Be gone: nobody listens."""
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Guarded:
    """A gateway that lets in only whom its accounts file or its issuer names."""

    gateway: Server
    accounts: Path
    issuer: Issuer

    def bearer(self, token: str) -> Answer:
        return request(self.gateway.port, BUCKETS, Authorization=f"Bearer {token}")

    def login(self, email: str) -> Answer:
        connection = http.client.HTTPConnection(HOST, self.gateway.port, timeout=20)
        body = json.dumps({"email": email, "password": PASSWORD})
        begun = time.monotonic()
        try:
            connection.request("POST", "/auth/login", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read(), time.monotonic() - begun)
        finally:
            connection.close()

    def command(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``main-api accounts`` as an operator does."""
        return subprocess.run(
            [sys.executable, "-m", "main_api.cli", "accounts", *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "ACCOUNTS_FILE": str(self.accounts)},
            input=given,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    accounts, issuer = tmp_path_factory.mktemp("accounts") / "accounts.yaml", Issuer()
    accounts.write_text(
        "roles:\n  reader: [buckets:read]\n"
        "users:\n- id: u_ann\n  email: ann@example.com\n  role: reader\n"
        f"  password: {Passwords().hash(PASSWORD)}\n"
    )
    try:
        with gateway_before(
            UPSTREAM,
            AUTHENTICATION="required",
            ACCOUNTS_FILE=str(accounts),
            INTERNAL_TOKEN="0123456789abcdef",
            JWT_SECRET="a-signing-secret-of-these-tests-1",
            JWT_ISSUERS=issuer.setting,
            LOGIN_RATE_LIMIT="1000 per minute",
            REDIS_URL="",
        ) as gateway:
            yield Guarded(gateway, accounts, issuer)
    finally:
        issuer.stop()


def test_what_the_command_line_changes_is_in_force_within_5_s(guarded: Guarded) -> None:
    token = guarded.login("ann@example.com").json["token"]
    assert guarded.bearer(token).status == 200
    assert guarded.login("bob@example.com").status == 401

    with ThreadPoolExecutor(3) as threads:
        # At the same time: none of them loses what another has written.
        made, added, disabled = (
            each.result()
            for each in (
                threads.submit(guarded.command, "key", "batch", "--scope", "buckets:read"),
                threads.submit(
                    guarded.command,
                    "add",
                    "bob@example.com",
                    "--role",
                    "reader",
                    "--password-stdin",
                    given=f"{PASSWORD}\n",
                ),
                threads.submit(guarded.command, "disable", "ann@example.com"),
            )
        )
    assert [each.returncode for each in (made, added, disabled)] == [0, 0, 0]
    assert "gateways know once they read the file, within 5 s" in disabled.stderr
    key = made.stdout.strip()

    # Not by the key: whoever shows what is not good yet is told 429 after a while.
    until(lambda: guarded.bearer(token).status != 200, "what was written is in force", 5)
    refused = guarded.bearer(token)
    assert (refused.status, refused.json["code"]) == (401, "token_revoked")
    assert request(guarded.gateway.port, BUCKETS, X_API_Key=key).status == 200
    assert guarded.login("ann@example.com").status == 401
    bob = guarded.login("bob@example.com")
    assert bob.status == 200
    assert bob.json["user"]["email"] == "bob@example.com"
    assert guarded.bearer(bob.json["token"]).status == 200
    for secret in (PASSWORD, key, bob.json["token"]):
        assert secret not in guarded.accounts.read_text()
        assert secret not in guarded.gateway.log()


def test_an_issuer_may_go_away_and_change_its_key(guarded: Guarded) -> None:
    issuer = guarded.issuer
    # A request may come before the first keys; it waits for them.
    assert guarded.bearer(issuer.token(0)).status == 200
    assert issuer.fetched == ["/keys"]

    issuer.stop()
    try:
        # Tokens that nobody has shown before, so that it is the key that is remembered.
        assert guarded.bearer(issuer.token(0)).status == 200
    finally:
        issuer.rotate()
        issuer.start()

    before = issuer.token(0)
    assert guarded.bearer(before).status == 200
    assert issuer.fetched == ["/keys"]
    until(lambda: guarded.bearer(issuer.token(1)).status == 200, "a token of the new key passes", 2)
    assert issuer.fetched == ["/keys"] * 2
    refused = guarded.bearer(issuer.token(0))
    assert (refused.status, refused.json["code"]) == (401, "unauthenticated")
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    # It was good, and has been checked.
    assert guarded.bearer(before).status == 200


def test_a_reload_with_a_faulty_file_ends_nothing_and_the_new_worker_waits_for_a_good_one(
    guarded: Guarded,
) -> None:
    good = guarded.accounts.read_text()
    [before] = guarded.gateway.workers()
    key = guarded.command("key", "later", "--scope", "buckets:read").stdout.strip()
    written = guarded.accounts.read_text()
    guarded.accounts.write_text(good + "nonsense: [")
    try:
        assert guarded.gateway.process is not None
        guarded.gateway.process.send_signal(signal.SIGHUP)
        until(lambda: len(now := guarded.gateway.workers()) == 1 and now != [before], "a new worker is there")
        answer = request(guarded.gateway.port, BUCKETS, X_API_Key=key)
        # Not 401: nobody can say that the key is not good.
        assert (answer.status, answer.json["code"]) == (503, "upstream_unavailable")
        # Whom the issuer knows needs no file.
        newest = len(guarded.issuer.keys) - 1
        assert guarded.bearer(guarded.issuer.token(newest)).status == 200
    finally:
        guarded.accounts.write_text(written)
    until(lambda: request(guarded.gateway.port, BUCKETS, X_API_Key=key).status == 200, "it is taken", 6)


# A start that fails.


def started(**settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "main_api/gunicorn_conf.py", "main_api.wsgi:app"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOST": HOST, "PORT": str(free_port()), **settings},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_settings_that_would_let_in_the_wrong_ones_end_the_start_all_at_once() -> None:
    short = "0123456789abcdefghijklmnopqrstu"
    assert len(short) == 31

    ended = started(AUTHENTICATION="required", WEB_CONCURRENCY="2", JWT_SECRET=short)

    headline, *faults = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert headline == "main-api cannot start:"
    named = ["ACCOUNTS_FILE", "INTERNAL_TOKEN", "JWT_SECRET", "WEB_CONCURRENCY"]
    assert sorted(fault.partition(":")[0] for fault in faults) == named
    assert short not in ended.stderr


FAULTY = """\
roles: {reader: [buckets:reed]}
users:
- {id: u_1, email: ann@example.com, role: raeder, password: canary}
"""


def test_a_faulty_accounts_file_and_a_weak_secret_end_the_start_before_any_worker(tmp_path: Path) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_text(FAULTY)
    secret = "canary" * 6

    ended = started(
        AUTHENTICATION="required",
        INTERNAL_TOKEN="0123456789abcdef",
        ACCOUNTS_FILE=str(path),
        JWT_SECRET=secret,
    )

    # Behind the server's own line, which is JSON.
    headline, *faults = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert "Booting worker" not in ended.stderr
    assert ended.returncode == 1
    assert headline == "main-api cannot start:"
    places = (
        "roles.reader",
        "users[0].role",
        "users[0].password",
        "JWT_SECRET, JWT_PREVIOUS_SECRETS: secret number 1",
    )
    for place in places:
        begin = place if place.startswith("JWT") else f"ACCOUNTS_FILE: {path}: {place}"
        assert sum(fault.startswith(begin) for fault in faults) == 1, place
    assert len(faults) == len(places)
    assert "canary" not in ended.stderr
