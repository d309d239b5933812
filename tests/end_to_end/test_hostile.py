"""Bytes that no client of good will sends, to a gateway with everything switched on: it stays well."""

import json
import random
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from main_api.accounts.api_keys import NewKey, new_key
from main_api.scopes import SCOPES
from tests.end_to_end import stand_in
from tests.end_to_end.processes import HOST, Server, request, until
from tests.end_to_end.stand_in import gateway_before, read_head

INTERNAL, SECRET = "canary-internal-token-81b2", "canary-signing-secret-0123456789abcdef"
MARK = b"zQ7x"
REQUESTS, AT_ONCE = 1_500, 8
# A 503 would say that the gateway is overloaded, which eight at a time are not to lead to.
STATUSES = {100, 200, 304, 400, 401, 403, 404, 405, 413, 414, 429, 431, 501}
CODES = {
    *("bad_request", "validation_failed", "invalid_request", "unauthenticated", "token_expired"),
    *("token_revoked", "forbidden", "not_found", "method_not_allowed", "too_large", "rate_limited"),
    "not_implemented",
}
PATHS = {"/aws/s3/buckets", "/aws/parameters", "/aws/parameters/list"}
SENT = {
    *("host", "accept", "x-request-id", "x-request-timeout-ms", "traceparent", "tracestate"),
    *("authorization", "x-internal-scopes", "accept-encoding", "connection"),
}
ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# No body has it: in JSON a line's end is escaped.
STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [A-Za-z -]+\r\n")
FIELD = re.compile(rb"([A-Za-z0-9-]+): ([ -~]*)")

NAMES = (
    *(b"Accept", b"Accept-Encoding", b"Access-Control-Request-Method", b"Authorization", b"Content-Type"),
    *(b"Cookie", b"If-None-Match", b"Origin", b"Pragma", b"Range", b"TE", b"Trailer", b"X-API-Key"),
    *(b"X-Correlation-ID", b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Internal-Scopes", b"X-Request-ID"),
    *(b"X-User-Id", b"traceparent", b"tracestate"),
)
# Those that say where a request ends, or who it is for, are refused unless they are quite right.
FRAMING = (b"Connection", b"Content-Length", b"Expect", b"Host", b"Transfer-Encoding", b"Upgrade")
TARGETS = (
    *(
        b"/api/s3/buckets",
        b"/api/parameters?name=a",
        b"/api/parameters/list?limit=2",
        b"/",
        b"/docs",
        b"/metrics",
    ),
    *(b"/api/health", b"/health", b"/routes", b"/auth/me", b"/auth/login", b"/nowhere", b"/gateway/stats"),
)
PIECES = (
    *(
        MARK,
        b"Bearer ",
        b"ApiKey ",
        b"gwk_",
        b"a.b.c",
        b"gzip",
        b";q=",
        b"*",
        b'W/"',
        b'"',
        b",",
        b";",
        b"=",
        b"\\",
    ),
    *(
        b"chunked",
        b"identity",
        b"close",
        b"keep-alive",
        b"websocket",
        b"h2c",
        b"100-continue",
        b"bytes=0-",
        b"0",
    ),
    *(
        b"application/openmetrics-text;version=",
        b"application/problem+json",
        b"-1",
        b"9" * 40,
        b"nan",
        b" ",
        b"\t",
    ),
    *(
        b"00-",
        b"a" * 32,
        b"\xff",
        b"\xc3\xa9",
        b"%0d%0a",
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b"\x7f",
        b"..",
        b"/",
        b"%2f",
    ),
    *(b"[::1]", b"10.0.0.1", b":", b"?", b"#", b"&name=", b"limit=", b"decrypt=true", b"token=", b"%", b"+"),
)
FIRST_WORDS = (
    *(
        b"GET",
        b"HEAD",
        b"POST",
        b"OPTIONS",
        b"PUT",
        b"TRACE",
        b"CONNECT",
        b"BREW",
        b"get",
        b"",
        b"G@T",
        b"A" * 30,
    ),
)
VERSIONS = (
    b"HTTP/1.1",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/1.1 ",
    b"http/1.1",
    b"",
    b"ICY",
)
# What once led to a fault, or to a redirect to wherever Host said.
KNOWN = tuple(
    b"\r\n".join((line, b"Host: a", *fields, b"X-API-Key: {key}", b"", b""))
    for line, *fields in (
        (b"GET /metrics HTTP/1.1", b"Accept: text/plain;version=x"),
        (b"GET /metrics HTTP/1.1", b"Accept: application/openmetrics-text;version=9." + MARK),
        (b"POST /api/s3/buckets HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket"),
        (b"GET http://evil.example HTTP/1.1",),
        (b"GET http://evil.example?name=a HTTP/1.1",),
    )
)
OTHER_PROTOCOLS = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x11" * 64,
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\r\n" * 2_000,
)


class Hostility:
    """Makes what is sent, the same for the same seed."""

    def __init__(self, seed: int, keys: Sequence[bytes]) -> None:
        self._random = random.Random(seed)
        self._keys = keys
        kinds: dict[Callable[[], bytes], int] = {
            self._with_strange_values: 35,
            self._with_strange_names: 8,
            self._with_a_strange_line: 15,
            self._with_a_strange_path: 12,
            self._with_a_strange_query: 10,
            self._truncated: 8,
            self._pipelined: 6,
            self._huge: 3,
            self._with_a_body: 8,
            self._no_http: 3,
        }
        self._kinds, self._weights = list(kinds), list(kinds.values())

    def one(self) -> bytes:
        """Make what one connection sends."""
        [kind] = self._random.choices(self._kinds, self._weights)
        return kind()

    def _some(self, most: int = 6) -> bytes:
        picked = self._random.choices(PIECES, k=self._random.randint(0, most))
        if self._random.random() < 0.3:
            picked.append(self._random.randbytes(self._random.randint(1, 20)))
        # What ends a field or a line, and other controls, is refused at once, and the rest not looked at.
        refused = b"" if self._random.random() < 0.1 else bytes((*range(32), 127))
        return b"".join(picked).translate(None, refused)

    def _request(self, *fields: bytes, line: bytes = b"", body: bytes = b"") -> bytes:
        line = line or b"GET %s HTTP/1.1" % self._random.choice(TARGETS)
        fields = (b"Host: a", b"X-Forwarded-For: 192.0.2.%d" % self._random.randint(1, 254), *fields)
        if self._random.random() < 0.5:
            fields = (*fields, b"X-API-Key: " + self._random.choice(self._keys))
        return b"\r\n".join((line, *fields, b"", body))

    def _with_strange_values(self) -> bytes:
        names = self._random.choices(NAMES, k=self._random.randint(1, 4))
        if self._random.random() < 0.15:
            names[0] = self._random.choice(FRAMING)
        return self._request(*(b"%s: %s" % (name, self._some()) for name in names))

    def _with_strange_names(self) -> bytes:
        return self._request(
            *(b"%s: %s" % (self._some(3), self._some(1)) for _ in range(self._random.randint(1, 3)))
        )

    def _with_a_strange_line(self) -> bytes:
        words = [
            self._random.choice(FIRST_WORDS),
            self._random.choice(TARGETS),
            self._random.choice(VERSIONS),
        ]
        if self._random.random() < 0.5:
            words[self._random.randrange(3)] = self._some()
        return self._request(line=self._random.choice((b" ", b" ", b" ", b"  ", b"\t")).join(words))

    def _with_a_strange_path(self) -> bytes:
        pieces = [
            b"/api/s3/buckets",
            b"/api",
            b"/parameters",
            b"/..",
            b"/.",
            b"//",
            b"%2e%2e",
            b"%2f",
            b"%252f",
            b";",
        ]
        pieces += [
            b"\\",
            b"%00",
            b"%5c",
            b"%c0%af",
            b"http://evil.example",
            b"/api/parameters",
            b"/aws/parameters",
            b"*",
        ]
        path = b"".join(self._random.choices(pieces, k=self._random.randint(1, 5)))
        return self._request(line=b"GET %s HTTP/1.1" % path)

    def _with_a_strange_query(self) -> bytes:
        path = self._random.choice((b"/api/s3/buckets", b"/api/parameters", b"/api/parameters/list"))
        query = b"&".join(self._some(4) for _ in range(self._random.choice((1, 2, 3, 300))))
        return self._request(line=b"GET %s?%s HTTP/1.1" % (path, query[:8000]))

    def _truncated(self) -> bytes:
        whole = self._request() if self._random.random() < 0.5 else self._with_a_body()
        return whole[: self._random.randrange(len(whole))]

    def _pipelined(self) -> bytes:
        makers = (self._request, self._request, self._with_a_body, self._with_a_strange_path)
        return b"".join(self._random.choice(makers)() for _ in range(self._random.randint(2, 6)))

    def _huge(self) -> bytes:
        size = self._random.choice((8_000, 20_000, 70_000, 300_000))
        return self._random.choice(
            (
                self._request(line=b"GET /%s HTTP/1.1" % (b"a" * size)),
                self._request(b"X-Long: " + b"a" * size),
                self._request(*[b"X-%d: a" % number for number in range(size // 100)]),
                self._login(b"Content-Length: %d" % size, b'"' + b"a" * (size - 2) + b'"'),
                self._login(b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"a" * size)),
                b"GET /" + b"a" * size,
            )
        )

    def _with_a_body(self) -> bytes:
        body = self._random.choice(
            (b"{}", b'{"email":"a@b.cc","password":"%s"}' % MARK, self._some(), b"[" * 999)
        )
        chunked = (
            b"%x\r\n%s\r\n" % (len(body), body),
            b"zz\r\n",
            b"5;a=b\r\nhello\r\n",
            b"-1\r\n",
            b"",
            b"ffffffffff\r\n",
        )
        return self._random.choice(
            (
                self._login(b"Content-Length: %d" % len(body), body),
                self._login(b"Content-Length: %d" % (len(body) + 5), body),
                self._login(b"Transfer-Encoding: chunked", self._random.choice(chunked) + b"0\r\n\r\n"),
                self._login(b"Content-Length: 2\r\nTransfer-Encoding: chunked", body),
                self._request(b"Content-Length: %d" % len(body), body=body),
            )
        )

    def _login(self, framing: bytes, body: bytes) -> bytes:
        return self._request(
            framing, b"Content-Type: application/json", line=b"POST /auth/login HTTP/1.1", body=body
        )

    def _no_http(self) -> bytes:
        return self._random.choice((*OTHER_PROTOCOLS, self._random.randbytes(self._random.randint(1, 400))))


@dataclass
class Upstream:
    """An auxiliary service that answers, and keeps the heads of what it was asked."""

    heads: list[bytes] = field(default_factory=list)

    def behave(self, client: socket.socket, _: Event) -> None:
        while head := read_head(client):
            self.heads.append(head)
            client.sendall(stand_in.body(b'{"success":true,"data":[],"count":0}'))


@dataclass(frozen=True)
class Running:
    """A gateway with everything switched on, before an upstream; a key that may do all, and one nothing."""

    gateway: Server
    upstream: Upstream
    key: NewKey
    powerless: NewKey

    def well(self) -> bool:
        """Whether somebody with the key is answered."""
        return request(self.gateway.port, "/api/s3/buckets", X_API_Key=self.key.text).status == 200

    def figures(self) -> tuple[int, int]:
        """Give the threads of the worker, and its memory in KiB."""
        [worker] = self.gateway.workers()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines())
        return int(status["Threads"]), int(status["VmRSS"].split()[0])

    def files(self) -> int:
        """Count what the worker has open."""
        [worker] = self.gateway.workers()
        return len(list(Path(f"/proc/{worker}/fd").iterdir()))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    upstream, key, powerless = Upstream(), new_key(), new_key()
    accounts = tmp_path_factory.mktemp("accounts") / "accounts.yaml"
    scopes = ((key, list(SCOPES)), (powerless, []))
    keys = [{"id": each.id, "owner": "tests", "digest": each.digest, "scopes": may} for each, may in scopes]
    accounts.write_text(json.dumps({"keys": keys}))
    with gateway_before(
        upstream.behave,
        AUTHENTICATION="required",
        ACCOUNTS_FILE=str(accounts),
        INTERNAL_TOKEN=INTERNAL,
        JWT_SECRET=SECRET,
        RATE_LIMIT_ENABLED="true",
        RATE_LIMIT="1000000 per minute",
        LOGIN_RATE_LIMIT="1000000 per minute",
        TRUSTED_PROXIES="127.0.0.0/8",
    ) as gateway:
        yield Running(gateway, upstream, key, powerless)


def log_in(running: Running) -> Counter[int]:
    """Have thirty people of whom nobody has heard log in, twelve at a time."""
    body = json.dumps({"email": "nobody@example.com", "password": "wrong"}).encode()
    lines = (b"POST /auth/login HTTP/1.1", b"Host: a", b"Content-Type: application/json")
    head = b"\r\n".join(
        (*lines, b"Content-Length: %d" % len(body), b"X-Forwarded-For: 198.51.100.%d\r\n\r\n")
    )

    def ask(number: int) -> int:
        return int(exchanged(running.gateway.port, head % number + body).split(b" ")[1])

    with ThreadPoolExecutor(12) as threads:
        return Counter(threads.map(ask, range(1, 31)))


def exchanged(port: int, data: bytes) -> bytes:
    """Send ``data`` and nothing after it; give all that comes back until the gateway closes."""
    received = b""
    with socket.create_connection((HOST, port), timeout=15) as client, suppress(ConnectionError):
        with suppress(ConnectionError):  # it has been refused before its end
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        while piece := client.recv(65_536):
            received += piece
    return received


def judge(received: bytes, secrets: tuple[bytes, ...]) -> list[int]:
    """Hold all answers of a connection to the contract; give their statuses."""
    found = list(STATUS_LINE.finditer(received))
    assert not received or (found and found[0].start() == 0), received[:200]
    assert not [secret for secret in secrets if secret in received]
    ends = [*(each.start() for each in found), len(received)][1:]
    for each, end in zip(found, ends, strict=True):
        status = int(each[1])
        assert status in STATUSES, received[each.start() : each.start() + 600]
        if status != 100:
            judge_one(status, *received[each.end() : end].partition(b"\r\n\r\n")[::2])
    return [int(each[1]) for each in found]


def judge_one(status: int, head: bytes, body: bytes) -> None:
    """Hold one answer to the contract."""
    headers = {}
    for line in head.split(b"\r\n"):
        matched = FIELD.fullmatch(line)
        assert matched, line
        headers[matched[1]] = matched[2]
    request_id = headers[b"X-Request-ID"]
    assert ID.fullmatch(request_id)
    assert not [name for name, value in headers.items() if MARK in value and not name.endswith(b"-ID")], (
        headers
    )
    assert {b"Location", b"Server", b"Set-Cookie"}.isdisjoint(headers)
    if status >= 400:
        assert headers[b"Content-Type"] in (b"application/json", b"application/problem+json")
        assert headers[b"Cache-Control"] == b"no-store"
        # None for HEAD, and 1 KiB and more may be compressed.
        if body and b"Content-Encoding" not in headers:
            facts = json.loads(body)
            assert facts["code"] in CODES
            assert facts["requestId"] == request_id.decode()
            assert len(body) == int(headers[b"Content-Length"])


def test_passwords_take_the_memory_of_two_at_a_time_whoever_tries_them(running: Running) -> None:
    assert running.well()
    _, before = running.figures()
    tried = log_in(running)
    _, after = running.figures()

    print(f"logins {dict(tried)}, KiB {before} and {after}")
    # Eight at once, more are told to come back.
    assert set(tried) <= {401, 503}
    assert tried[401] >= 8
    # 19 MiB for each of two, or of three for a while; of eight threads it would be 150.
    assert after <= before + (3 * 19 + 40) * 1024


def test_fifteen_hundred_hostile_requests_are_answered_by_the_contract_and_leave_nothing(
    running: Running,
) -> None:
    gateway, seed = running.gateway, random.randrange(2**32)
    print(f"seed {seed}")
    workers = gateway.workers()
    keys = (running.key.text.encode(), running.powerless.text.encode())
    hostility, secrets = Hostility(seed, keys), (INTERNAL.encode(), SECRET.encode(), *keys)
    assert running.well()
    assert log_in(running)[401]
    open_before = running.files()
    statuses: Counter[int] = Counter()

    def ask(data: bytes) -> list[int]:
        try:
            return judge(exchanged(gateway.port, data), secrets)
        except (AssertionError, OSError, ValueError, KeyError) as error:
            raise AssertionError(f"seed {seed}: {error!r} for {data[:3000]!r}") from error

    assert [ask(data.replace(b"{key}", keys[0])) for data in KNOWN] == [[200], [200], [405], [404], [404]]
    figures = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        # The first third warms up: pools fill, and modules are loaded.
        for _ in range(3):
            sent = [hostility.one() for _ in range(REQUESTS // 3)]
            for answered in threads.map(ask, sent):
                statuses.update(answered)
            figures.append(running.figures())

    print(f"statuses {dict(sorted(statuses.items()))}, threads and KiB {figures}")
    # What was asked is not all refused on sight.
    assert {200, 400, 401, 403, 404, 405, 414, 431, 501} <= set(statuses), statuses
    assert statuses[200] > REQUESTS // 20
    assert running.well()
    assert gateway.workers() == workers
    (threads_before, memory_before), (threads_after, memory_after) = figures[0], figures[-1]
    assert threads_after <= threads_before + AT_ONCE
    # The thread that hashes passwords may have had its first one only now: 19 MiB.
    assert memory_after <= memory_before + (19 + 8) * 1024
    until(lambda: running.files() <= open_before + 2, f"seed {seed}: every connection is closed")
    judge_log(gateway, secrets)
    judge_sent(running.upstream.heads)


def judge_log(gateway: Server, secrets: tuple[bytes, ...]) -> None:
    """Hold the log to it: one JSON object a line, no fault of ours, no secret."""
    grave = [line for line in gateway.lines() if line["level"] not in ("debug", "info", "warning")]
    assert grave == []
    assert not [line for line in gateway.lines() if "exception" in line]
    text = gateway.log().encode()
    assert not [secret for secret in secrets if secret in text]


def judge_sent(heads: list[bytes]) -> None:
    """Hold what went upstream to the allow-list."""
    assert heads
    for head in heads:
        line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        method, target, version = line.split(" ")
        assert (method, version) == ("GET", "HTTP/1.1")
        assert target.partition("?")[0] in PATHS
        assert re.fullmatch(r"[A-Za-z0-9/._~?&=%-]+", target)
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in fields)}
        assert len(headers) == len(fields)
        assert set(headers) <= SENT
        assert headers["authorization"] == f"Bearer {INTERNAL}"
        assert headers["x-internal-scopes"] == " ".join(sorted(SCOPES))
        assert headers["accept"] == "application/json"
