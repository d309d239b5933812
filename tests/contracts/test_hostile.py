"""Whatever is sent, wherever something reads it: an answer by the contract, and nothing of it goes on.

What is asked goes through the parser of the worker, so that it reaches the gateway as it would from a socket.
"""

import gzip
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData
from gunicorn.http.unreader import IterUnreader
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from urllib3.util import SKIP_HEADER

from chassis.settings import load
from chassis.worker import gunicorn_settings
from chassis.worker.reading import Request
from chassis.worker.writing import refusal
from main_api.access import own_tokens
from main_api.scopes import SCOPES
from main_api.settings import Settings
from tests.contracts.accounts import INTERNAL, PASSWORD, SECRET, People, write

MOMENT = datetime(2023, 12, 1, 12, tzinfo=UTC)
DATA = {
    "/api/s3/buckets": "/aws/s3/buckets",
    "/api/parameters/list": "/aws/parameters/list",
    "/api/parameters": "/aws/parameters",
}
PROBLEM = "application/problem+json"
CODES = {
    400: {"bad_request", "validation_failed", "invalid_request"},
    401: {"unauthenticated", "token_expired", "token_revoked"},
    403: {"forbidden"},
    404: {"not_found"},
    405: {"method_not_allowed"},
    413: {"too_large"},
    414: {"too_large"},
    429: {"rate_limited"},
    431: {"too_large"},
    # A transfer coding that nobody has heard of.
    501: {"not_implemented"},
    # No time, or nothing stored: that is what the client has asked for.
    504: {"gateway_timeout", "aws_timeout"},
}
FACTS = {"code", "requestId", "versions", "timestamp"}
IDS = ("X-Request-ID", "X-Correlation-ID")
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# What goes upstream of what a client may have a say in; the tag is the cache's own.
CHECKED = {
    "x-request-timeout-ms": "[0-9]{1,4}",
    "traceparent": "00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]",
    "tracestate": r"[ -~\t]{1,512}",
    "if-none-match": 'W/"[A-Za-z0-9_-]+"',
}
# The statuses that a header may ask for.
ASKED_FOR = {
    "Transfer-Encoding": (501,),
    "Cache-Control": (504,),
    "X-Request-Timeout-Ms": (504,),
    # It says from where, and too many from there were refused.
    "X-Forwarded-For": (429,),
}
# In each piece of text that may not come back in a header.
MARK = b"zQ7x"

# What each header is made of by those who mean well; the rest is for all of them.
WORDS: Mapping[str, tuple[bytes, ...]] = {
    "Accept": (
        *(b"application/problem+json", b"application/json", b"*/*", b",", b";q=", b";escaping=", b"1.0.0"),
        *(b"application/openmetrics-text;version=", b"text/plain;version="),
    ),
    "Accept-Encoding": (b"gzip", b"gzip;q=", b"identity", b"*"),
    "Access-Control-Request-Method": (b"GET", b"POST", b"DELETE"),
    "Authorization": (b"Bearer ", b"ApiKey ", b"Basic ", b"eyJhbGciOiJub25lIn0", b".", b"{key}", b"{token}"),
    "Cache-Control": (b"no-cache", b"no-store", b"only-if-cached", b"max-age=", b","),
    "Connection": (b"close", b"keep-alive", b"Upgrade", b"X-API-Key"),
    "Content-Length": (b"0", b"5", b"-1", b"+5", b"0x10", b"99999999999999999999"),
    "Content-Type": (b"application/json", b"; charset=", b"utf-7", b"text/plain", b"multipart/form-data"),
    "Expect": (b"100-continue",),
    "Host": (b"a", b"[::1]", b":80", b"example.com", b"xn--", b"%41", b"@"),
    "If-None-Match": (b'W/"', b'"', b"*", b","),
    "Origin": (b"https://", b"null", b"http://evil.example", b"https://allowed.example"),
    "Traceparent": (
        *(b"00-", b"a" * 32, b"-", b"b" * 16, b"-01", b"00-%s-%s-ff" % (b"a" * 32, b"b" * 16)),
        *(b"00-%s-%s-01" % (b"0" * 32, b"b" * 16), b"ff-%s-%s-01" % (b"a" * 32, b"b" * 16)),
    ),
    "Tracestate": (b"vendor=1", b",", b"a@b=", b"="),
    "Transfer-Encoding": (b"chunked", b"identity", b"gzip", b"snappy"),
    "Upgrade": (b"websocket", b"h2c"),
    "X-API-Key": (b"gwk_", b"A" * 43, b"{key}", b"{token}"),
    "X-Correlation-ID": (b"an-id", b"."),
    "X-Forwarded-For": (b"10.0.0.1", b"192.0.2.1", b"[::1]", b":443", b", ", b"%eth0", b"unknown"),
    "X-Forwarded-Proto": (b"https", b"http"),
    "X-Request-ID": (b"an-id", b"."),
    "X-Request-Timeout-Ms": (b"1", b"50", b"5000", b"-", b"e3", b"\xb2", b"0x"),
}
# What nothing here has any business with, or only the gateway itself may say.
UNREAD = (
    *("Access-Control-Request-Headers", "Content-Encoding", "Cookie", "Forwarded", "If-Match", "If-Range"),
    *("If-Modified-Since", "Pragma", "Range", "Referer", "TE", "Trailer", "User-Agent", "X-Forwarded-Host"),
    *("X-Forwarded-Prefix", "X-HTTP-Method-Override", "X-Internal-Scopes", "X-Service-Version", "X-User-Id"),
    *("X_API_Key", "X-Internal_Scopes", "Proxy-Authorization", "Proxy", "Script-Name", "Remote-User"),
)
FRAMING = ("Connection", "Content-Length", "Expect", "Host", "Transfer-Encoding", "Upgrade")
READ = tuple(sorted(set(WORDS) - set(FRAMING)))
COMMON = (
    *(MARK, b"", b" ", b"\t", b",", b";", b"=", b'"', b"\\", b"'", b"%0d%0a", b"%00", b"/", b"..", b"<b>"),
    *(
        b"\xff",
        b"\xc3\xa9",
        b"\xe2\x80\xa8",
        b"\xc2\x85",
        b"nan",
        b"1e999",
        b"0",
        b"9" * 30,
        b"*",
        b"a" * 2000,
    ),
)
# What the parser refuses, too.
CONTROLS = bytes((*range(32), 127))
REFUSED = (b"\x00", b"\x0b", b"\x1b[2J", b"\x7f", b"\r", b"\n")
TARGETS = (
    *(
        "/api/s3/buckets",
        "/api/parameters?name=a",
        "/api/parameters/list?prefix=a",
        "/api/s3/buckets?limit=2",
    ),
    *("/", "/docs", "/openapi.json", "/console/page.js", "/api/health", "/api/health/serving", "/nowhere"),
    *("/metrics", "/health", "/services", "/routes", "/gateway/stats", "/circuit-breakers", "/auth/me"),
    *("/auth/logout", "/auth/login", "/services/auxiliary-service", "/api/parameters?name=a&decrypt=true"),
)
METHODS = (*["GET"] * 8, "HEAD", "OPTIONS", "POST", "DELETE", "TRACE", "BREW")


@dataclass(frozen=True)
class Answer:
    """What came back, and what went upstream for it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    sent: tuple[Any, ...]
    method: str

    def header(self, name: str) -> str | None:
        """Give a header that may be there once."""
        found = [value for each, value in self.headers if each.lower() == name.lower()]
        assert len(found) <= 1, name
        return found[0] if found else None

    @property
    def text(self) -> str:
        """The body as it was before it was compressed."""
        compressed = self.header("Content-Encoding") == "gzip"
        return (gzip.decompress(self.body) if compressed and self.body else self.body).decode()


PLAIN = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Unfinished(Exception):
    """There is no whole request."""


class Line:
    """The client's end, of which a 100 Continue alone has need."""

    def send(self, _: bytes) -> None:
        """Take it."""


class Gateway:
    """A gateway that is asked in bytes, each time from another address, by somebody who may do everything."""

    def __init__(self, pair: Any, key: str = "", token: str = "", secrets: tuple[str, ...] = ()) -> None:
        self.pair = pair
        self.key = key
        self.token = token
        self.secrets = secrets
        self.required = bool(key)
        self._config = Config()
        for name, value in gunicorn_settings(load(Settings, {}), "main_api.wsgi:app").items():
            self._config.set(name, value)
        self._addresses = itertools.count()

    def ask(self, data: bytes) -> Answer:
        """Answer the first request in ``data``; one that does not end waits, in a worker, for its rest."""
        number = next(self._addresses)
        environ = self._environ(data, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        before = len(self.pair.wire.sent)
        began: list[Any] = []
        pieces = self.pair.gateway_app(environ, lambda *said: began.append(said))
        try:
            body = b"".join(pieces)
        finally:
            pieces.close()
        status, headers = began[-1][:2]
        sent = tuple(self.pair.wire.sent[before:])
        return Answer(int(status.split()[0]), tuple(headers), body, sent, environ["REQUEST_METHOD"])

    def get(self, target: str, *headers: bytes, method: str = "GET", body: bytes = b"") -> Answer:
        """Ask with a Host and a credential, unless ``headers`` have others."""
        names = {each.partition(b":")[0].lower() for each in headers}
        lines = [f"{method} {target} HTTP/1.1".encode("latin-1"), *headers]
        if b"host" not in names:
            lines.append(b"Host: gateway.example")
        if self.key and not names & {b"authorization", b"x-api-key"}:
            lines.append(f"X-API-Key: {self.key}".encode())
        return self.ask(b"\r\n".join([*lines, b"", body]))

    def filled(self, name: str, value: bytes) -> bytes:
        """Put a good credential into a header where it says so."""
        if name not in ("Authorization", "X-API-Key"):
            return value
        return value.replace(b"{key}", self.key.encode()).replace(b"{token}", self.token.encode())

    def _environ(self, data: bytes, address: str) -> dict[str, Any]:
        client, server = (address, 4711), ("127.0.0.1", 3000)
        try:
            request = Request(self._config, IterUnreader([data]), client)
            _, environ = wsgi.create(request, Line(), client, server, self._config)
        except NoMoreData:
            raise Unfinished from None
        except Exception as fault:
            # As the worker does with what it cannot read.
            return {**self._environ(PLAIN, address), "chassis.refusal": refusal(fault)}
        return dict(environ)


def aws(operation: str, arguments: dict[str, Any]) -> Any:
    """Answer as AWS does: whatever is asked for is there."""
    if operation == "ListBuckets":
        return {"Buckets": [{"Name": "b", "CreationDate": MOMENT}]}
    names = [arguments["Name"]] if operation == "GetParameter" else [f"{arguments['Path']}/a"]
    always = {"Type": "String", "Value": "v", "Version": 1, "LastModifiedDate": MOMENT}
    made = [{"Name": name, **always} for name in names]
    return {"Parameter": made[0]} if operation == "GetParameter" else {"Parameters": made}


def judge(gateway: Gateway, answer: Answer, *more: int) -> None:
    """Hold an answer, and what was sent for it, to the contract, whatever was asked.

    ``more`` are the statuses that only this request could ask for.
    """
    assert answer.status in {200, 304, 400, 401, 403, 404, 405, *more}, answer
    for name, value in answer.headers:
        assert re.fullmatch(r"[A-Za-z0-9-]+", name), name
        assert re.fullmatch(r"[ -~]*", value), (name, value)
        assert MARK.decode() not in value or name in IDS, (name, value)
        assert name not in IDS or ID.fullmatch(value), value
    assert answer.header("X-Request-ID")
    assert {"Location", "Server", "Set-Cookie"}.isdisjoint(name for name, _ in answer.headers)
    assert answer.header("X-Content-Type-Options") == "nosniff"
    shown = answer.text + str(answer.headers)
    assert not [secret for secret in gateway.secrets if secret in shown]
    if answer.status >= 400:
        judge_error(answer)
    for request in answer.sent:
        judge_sent(gateway, answer, request)


def judge_error(answer: Answer) -> None:
    """Hold an error to the one body."""
    assert answer.header("Content-Type") in ("application/json", PROBLEM)
    assert answer.header("Cache-Control") == "no-store"
    challenge = answer.header("WWW-Authenticate") or ""
    assert challenge.startswith('Bearer realm="main-api"') or answer.status != 401
    assert not challenge or answer.status in (401, 403)
    if answer.method == "HEAD":
        assert answer.body == b""
        return
    body = json.loads(answer.text)
    problem = answer.header("Content-Type") == PROBLEM
    head = {"type", "title", "status", "detail"} if problem else {"success", "error"}
    assert head | FACTS <= set(body) <= head | FACTS | {"details", "retryAfter"}
    assert body["code"] in CODES[answer.status]
    assert body["requestId"] == answer.header("X-Request-ID")
    assert body.get("status", answer.status) == answer.status
    assert body.get("success", False) is False


def judge_sent(gateway: Gateway, answer: Answer, request: Any) -> None:
    """Hold what went upstream to the allow-list: names, and values that are ours or were checked."""
    headers = {name.lower(): value for name, value in request.headers.items() if value != SKIP_HEADER}
    ours = {"accept": "application/json", "x-request-id": answer.header("X-Request-ID")}
    if gateway.required:
        ours |= {"authorization": f"Bearer {INTERNAL}", "x-internal-scopes": " ".join(sorted(SCOPES))}
    checked = {name: value for name, value in headers.items() if name not in ours}
    assert {name: headers.get(name) for name in ours} == ours
    assert {"x-request-timeout-ms", "traceparent"} <= set(checked) <= set(CHECKED)
    for name, value in checked.items():
        assert re.fullmatch(CHECKED[name], value), (name, value)
    assert 1 <= int(checked["x-request-timeout-ms"]) <= 9900
    assert (request.method, request.body) == ("GET", None)
    assert re.fullmatch(r"http://localhost:3001(/[a-z0-9]+)+(\?[A-Za-z0-9._~&=%-]+)?", request.url), (
        request.url
    )


def asked_upstream(answer: Answer) -> list[str]:
    """Give the paths that were asked."""
    return [urlsplit(each.url).path for each in answer.sent]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return write(tmp_path_factory.mktemp("accounts") / "accounts.yaml")


def mismatch(*_: object) -> bool:
    raise VerifyMismatchError


@pytest.fixture(scope="module")
def required(people: People, pair_over_fake_aws: Callable[..., Any]) -> Iterator[Gateway]:
    environment = people.environment(
        RATE_LIMIT_ENABLED="true",
        RATE_LIMIT="1000000 per second",
        LOGIN_RATE_LIMIT="1000000 per second",
        TRUSTED_PROXIES="10.0.0.0/8",
        CORS_ORIGINS="https://allowed.example",
    )
    tokens = own_tokens(load(Settings, environment))
    assert tokens is not None
    key, (token, _) = people.keys["admin"].text, tokens.issue("u_admin", "admin")
    with pytest.MonkeyPatch.context() as patch:
        # A hash takes 30 ms, and no password here is right.
        patch.setattr(PasswordHasher, "verify", mismatch)
        pair = pair_over_fake_aws(**environment)
        pair.aws.answer = aws
        yield Gateway(pair, key, token, (SECRET, INTERNAL, PASSWORD, key, token, str(people.path)))


@pytest.fixture(scope="module")
def none(pair_over_fake_aws: Callable[..., Any]) -> Gateway:
    pair = pair_over_fake_aws(TRUSTED_PROXIES="10.0.0.0/8")
    pair.aws.answer = aws
    return Gateway(pair)


@pytest.fixture(scope="module", params=["required", "none"])
def gateway(request: pytest.FixtureRequest) -> Gateway:
    made: Gateway = request.getfixturevalue(request.param)
    return made


FUZZ = hypothesis_settings(max_examples=60, deadline=None)

# Headers.


@st.composite
def headers(draw: st.DrawFn) -> tuple[str, bytes]:
    """Make a header of what it is usually made of, of what is special somewhere, and of anything."""
    # Most of those that frame a request end it, and the others are not looked at.
    kind = draw(st.sampled_from((*[READ] * 8, FRAMING, UNREAD)))
    name = draw(st.sampled_from(kind))
    words = (*WORDS.get(name, ()) * 3, *COMMON, *(REFUSED if draw(st.integers(0, 19)) == 7 else ()))
    wild = st.binary(max_size=20).map(lambda data: data.translate(None, CONTROLS))
    known = st.sampled_from(words)
    return name, b"".join(draw(st.lists(known if draw(st.booleans()) else known | wild, max_size=5)))


@given(
    method=st.sampled_from(METHODS),
    target=st.sampled_from(TARGETS),
    shown=st.lists(headers(), min_size=1, max_size=4),
)
@example("GET", "/metrics", [("Accept", b"text/plain;version=x")])
@example("GET", "/metrics", [("Accept", b"application/openmetrics-text;version=9." + MARK)])
@example("GET", "/", [("X-Request-Timeout-Ms", b"\xb2")])
@example("GET", "/", [("X-Request-Timeout-Ms", b"9" * 5000)])
@example("GET", "/", [("Traceparent", b"00-%s-%s-01" % (b"0" * 32, b"b" * 16))])
@example("POST", "/auth/login", [("Connection", b"Upgrade"), ("Upgrade", b"websocket")])
@FUZZ
def test_no_header_leads_to_a_fault_comes_back_or_goes_on(
    gateway: Gateway, method: str, target: str, shown: list[tuple[str, bytes]]
) -> None:
    names = {name for name, _ in shown}
    lines = [f"{name}: ".encode() + gateway.filled(name, value) for name, value in shown]
    if "Traceparent" not in names:
        lines.append(b"Traceparent: 00-%s-%s-01" % (b"a" * 32, b"b" * 16))  # else there is no state of it
    for asked in (target, "/api/s3/buckets"):
        answer = gateway.get(asked, *lines, method=method)

        judge(gateway, answer, 431, *(status for name in names for status in ASKED_FOR.get(name, ())))
        assert asked_upstream(answer) in ([], [DATA.get(urlsplit(asked).path)])


def test_what_only_the_gateway_may_say_is_not_believed_of_a_client(gateway: Gateway) -> None:
    forged = {
        "Accept": "text/html",
        "X-Internal-Scopes": "parameters:decrypt gateway:operate",
        "X-User-Id": "u_admin",
        "X-Service-Version": "6.6.6",
        "If-None-Match": 'W/"of-a-client"',
        "Cookie": "session=forged",
        "Connection": "X-Internal-Scopes, Authorization",
        "Traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "X-Request-ID": "mine",
        "X-Request-Timeout-Ms": "4321",
        "Proxy-Authorization": "Bearer forged",
        # No client can name the internal token, and nobody would look at it here.
        **({} if gateway.required else {"Authorization": f"Bearer {INTERNAL}"}),
    }
    for target, upstream in DATA.items():
        target += "?name=a" if target == "/api/parameters" else ""
        answer = gateway.get(target, *(f"{name}: {value}".encode() for name, value in forged.items()))

        judge(gateway, answer)
        assert answer.status == 200
        assert asked_upstream(answer) == [upstream]
        [request] = answer.sent
        assert request.headers["X-Request-ID"] == "mine"
        assert int(request.headers["X-Request-Timeout-Ms"]) <= 4221
        assert request.headers["traceparent"].startswith("00-" + "a" * 32)
        assert "b" * 16 not in request.headers["traceparent"]
        assert "forged" not in str(request.headers)
        assert "of-a-client" not in str(request.headers)
    if not gateway.required:
        assert (
            gateway.get(
                "/api/parameters?name=a&decrypt=true", b"X-Internal-Scopes: parameters:decrypt"
            ).status
            == 403
        )


@pytest.mark.parametrize(
    "piece", [b" ", b"\t", b",", b";", b"=", b'a="', b'"a",', b"a;q=0.5,", b"10.0.0.1,", b"a/b,"]
)
def test_a_long_header_takes_no_more_than_its_length(required: Gateway, piece: bytes) -> None:
    def seconds(name: str, length: int) -> float:
        began = time.process_time()
        answer = required.get("/api/s3/buckets", f"{name}: x".encode() + (piece * length)[:length] + b"x")
        judge(required, answer)
        return time.process_time() - began

    for name in WORDS:
        if name not in ("Content-Length", "Host", "Transfer-Encoding"):
            # Linear, it is a small part of the request; quadratic, 256 times as long for 16 times the length.
            # Asked again, since what the collector of garbage takes is not the header's.
            assert any(seconds(name, 16_000) < 8 * seconds(name, 1_000) for _ in range(3)), name


# Paths.

SEGMENTS = (
    *(
        "api",
        "s3",
        "buckets",
        "parameters",
        "list",
        "aws",
        "auth",
        "login",
        "me",
        "metrics",
        "health",
        "routes",
    ),
    *(
        "services",
        "auxiliary-service",
        ".",
        "..",
        "...",
        "",
        "*",
        "~",
        "a",
        "A",
        "%61pi",
        "%2561pi",
        "%zz",
        "%",
    ),
    *(
        "%00",
        "%0a",
        "%0d%0aX-A:b",
        "%7f",
        "%ff",
        "%c0%ae",
        "%e2%80%a8",
        "%20",
        "+",
        "%3f",
        "%23",
        "%25",
        "@",
        ":",
    ),
)
SLASHES = (
    "/",
    "/",
    "/",
    "//",
    "\\",
    "%2f",
    "%2F",
    "%252f",
    "%5c",
    "%255c",
    ";",
    ";a=b/",
    "/./",
    "/../",
    "/%2e/",
)
DOTS = ("/%2e%2e/", "/%2E./", "/%252e%252e/", "/..;/", "/..%00/", "\t/")
# A path that there is, and what leads to another one if somebody decodes, cuts or joins it.
BEGINNINGS = (*DATA, *DATA, "/metrics", "/nowhere", "/aws/s3/buckets", "/health", "")
ORIGINS = ("", "", "", "", "http://evil.example", "//evil.example", "http://localhost:3001", "https://a@b:9")


@st.composite
def paths(draw: st.DrawFn) -> str:
    """Make a path out of one that there is, or of pieces of one."""
    rest = draw(st.lists(st.sampled_from(SLASHES + DOTS) | st.sampled_from(SEGMENTS), max_size=6))
    beginning = draw(st.sampled_from(BEGINNINGS))
    written = draw(st.sampled_from(("", "/"))) + "".join(rest)
    return draw(st.sampled_from((beginning + written, written + beginning, beginning, f"/{written}")))


@given(
    origin=st.sampled_from(ORIGINS), path=paths(), query=st.sampled_from(("", "", "?name=a", "?limit=2", "?"))
)
@example("", "/api/s3/buckets/../../parameters", "?name=a")
@example("", "/api/%2e%2e/api/s3/buckets", "")
@example("", "/api%2fs3%2fbuckets", "")
@example("", "//api/s3/buckets", "")
@example("http://evil.example", "/api/s3/buckets", "")
@example("http://evil.example", "", "")
@example("http://evil.example", "", "?name=a")
@FUZZ
def test_a_path_leads_where_it_is_written_and_nowhere_else(
    gateway: Gateway, origin: str, path: str, query: str
) -> None:
    assume(not origin or path[:1] in ("", "/"))
    answer = gateway.get(origin + path + query)

    judge(gateway, answer)
    # As in an absolute URL, whose authority says nothing (RFC 9112, 3.2.2).
    there = DATA.get(path) if origin != "//evil.example" else None
    right = {"/api/s3/buckets": ("", "?", "?limit=2"), "/api/parameters": ("?name=a",)}
    right["/api/parameters/list"] = right["/api/s3/buckets"]
    assert asked_upstream(answer) == ([there] if there and query in right[path] else [])
    if there:
        assert answer.status == (200 if answer.sent else 400)
    elif not path or re.search(r"%|//|\\|;|\.\.|.[^a-z]\Z", path):
        assert answer.status in (400, 404)


# Queries.

NAMES = ("name", "prefix", "limit", "nextToken", "decrypt")
CREDENTIALS = {
    *("access_token", "token", "id_token", "jwt", "bearer", "authorization"),
    *("api_key", "apikey", "api-key", "x-api-key"),
}
STRANGE = (
    "",
    "Name",
    "name[]",
    "name ",
    "limit\x00",
    "__proto__",
    "url",
    "path",
    "_schema",
    "é",
    "\u2028",
    "\ufffd",
)
GOOD = {
    "name": ("a", "database/host", "/myproject/a", "a" * 1011, "..."),
    "prefix": ("a", "database", "a.b-c"),
    "limit": ("1", "1000", "42"),
    "nextToken": ("abc=", "~._-"),
    "decrypt": ("true", "false"),
}
BAD = (
    *(
        "",
        "..",
        "a/../b",
        "a//b",
        "//a",
        "a/",
        "./a",
        "a\x00",
        "a\n",
        "a b",
        "a%2fb",
        "é",
        "\u202e",
        "0",
        "1001",
        "-1",
    ),
    *(
        "٣",
        "1e3",
        "TRUE",
        "true ",
        "a" * 1012,
        "a/" * 16 + "a",
        "a&b=c",
        "a?b",
        "a#b",
        "a;b",
        "a+b",
        "/",
        "'--",
        "*",
    ),
)


PRINTABLE = sorted(set(map(chr, range(33, 127))) - {"#"})


def written(text: str, how: int) -> str:
    """Write ``text`` as part of a query: all of it encoded, what has to be, or encoded once more."""
    must = re.compile(rb"[^A-Za-z0-9._~/-]" if how else rb".", re.DOTALL)
    once = must.sub(lambda found: b"%%%02x" % found[0][0], text.encode()).decode()
    return once.replace("%", "%25") if how == 2 else once.replace("%20", "+") if how == 3 else once


@st.composite
def pairs(draw: st.DrawFn) -> str:
    """Make one parameter of a query, most often of those that there are."""
    name = draw(st.sampled_from(NAMES * 4 + STRANGE + tuple(sorted(CREDENTIALS))) | st.text(max_size=5))
    value = draw(st.sampled_from(GOOD.get(name, ("a",)) * 2 + BAD) | st.text(max_size=10))
    hows = st.sampled_from((0, 1, 1, 1, 2, 3))
    return f"{written(name, draw(hows))}={written(value, draw(hows))}"


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, str]:
    """Make a path and its query: by the rules, with something besides, or of anything."""
    path = draw(st.sampled_from(sorted(DATA)))
    names = draw(st.sets(st.sampled_from(sorted(set(TAKEN[path]) - {"name"}))))
    hows = st.sampled_from((0, 1, 1, 3))
    right = [
        f"{written(name, draw(hows))}={written(draw(st.sampled_from(GOOD[name])), draw(hows))}"
        for name in (*names, *(["name"] if path == "/api/parameters" else []))
    ]
    kind = draw(st.sampled_from(("right", "right", "right", "wrong", "wrong", "more", "many", "wild")))
    if kind == "wrong" and right:
        at = draw(st.integers(0, len(right) - 1))
        right[at] = f"{right[at].partition('=')[0]}={written(draw(st.sampled_from(BAD)), draw(hows))}"
    elif kind == "more":
        right.insert(draw(st.integers(0, len(right))), draw(pairs()))
    elif kind == "many":
        right += draw(st.lists(pairs(), min_size=1, max_size=3)) * 90
    elif kind == "wild":
        right = [draw(st.text(PRINTABLE, max_size=40)), *right]
    return path, "&".join(draw(st.permutations(right)))


def parameter_name(name: str) -> bool:
    """Whether SSM would take it for a name, told anew."""
    segments = name.removeprefix("/").split("/")
    right = all(re.fullmatch(r"(?!\.\.?\Z)[A-Za-z0-9_.-]+", each) for each in segments)
    return right and len(segments) <= 15 and len(name.removeprefix("/")) <= 1011


def matching(pattern: str) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(pattern, value) is not None


LIMIT, TOKEN = matching("[1-9][0-9]{0,2}|1000"), matching("[A-Za-z0-9_.~=-]{1,4096}")
LISTS = {"limit": LIMIT, "nextToken": TOKEN}
DECRYPT = {"decrypt": matching("true|false")}
TAKEN: dict[str, dict[str, Callable[[str], bool]]] = {
    "/api/s3/buckets": {**LISTS, "prefix": matching("[A-Za-z0-9._-]{1,255}")},
    "/api/parameters/list": {**LISTS, **DECRYPT, "prefix": parameter_name},
    "/api/parameters": {**DECRYPT, "name": parameter_name},
}


def faults(path: str, query: list[tuple[str, str]]) -> set[str]:
    """Name the parameters that are wrong."""
    names = [name for name, _ in query]
    wrong = {name for name, value in query if not TAKEN[path].get(name, lambda _: False)(value)}
    missing = {"name"} - set(names) if path == "/api/parameters" else set()
    return wrong | missing | {name for name in names if names.count(name) > 1}


@given(asked())
@example(("/api/parameters", "name=a&name=a"))
@example(("/api/parameters", "name=a&decrypt=true"))
@example(("/api/parameters", "name=a%252fb"))
@example(("/api/parameters", "name=a%0a"))
@example(("/api/parameters", "name=a/%2e%2e/b"))
@example(("/api/s3/buckets", "nextToken=a%26limit=1"))
@example(("/api/s3/buckets", "limit=1&limit=1"))
@FUZZ
def test_the_query_that_goes_on_is_the_one_that_was_checked(
    gateway: Gateway, question: tuple[str, str]
) -> None:
    path, query = question
    assume(len(query) < 8000)
    answer = gateway.get(f"{path}?{query}")

    judge(gateway, answer)
    given_ = parse_qsl(query, keep_blank_values=True, errors="werkzeug.url_quote")
    wrong = faults(path, given_)
    if gateway.required and CREDENTIALS & {name.lower() for name, _ in given_}:
        assert (answer.status, answer.sent) == (401, ())
    elif wrong:
        assert (answer.status, answer.sent) == (400, ())
        details = json.loads(answer.text)["details"]
        assert [each["field"] for each in details] == sorted(name[:200] for name in wrong)
        assert all(each["value"] is None or len(each["value"]) <= 200 for each in details)
    elif ("decrypt", "true") in given_ and not gateway.required:
        assert (answer.status, answer.sent) == (403, ())
    else:
        assert asked_upstream(answer) == [DATA[path]]
        [request] = answer.sent
        sent = parse_qsl(urlsplit(request.url).query, keep_blank_values=True, strict_parsing=bool(given_))
        assert sorted(sent) == sorted(given_)
        # Another project, and a token that is none, are the auxiliary's to refuse.
        assert answer.status == 200 or json.loads(answer.text)["code"] == "invalid_request"


# Logins, and bodies where there are none.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
EMAILS = ("admin@example.com", "ADMIN@example.com", "a@b.cc", "", "a" * 255, "\ud800", "\x00", "'--")
PASSWORDS = (PASSWORD, PASSWORD, PASSWORD, "x" * 1025, "", "\udfff", "e\u0301")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Make a login that may be one, with something else in it, a part of it, or no login at all."""
    login: Any = {"email": draw(st.sampled_from(EMAILS)), "password": draw(st.sampled_from(PASSWORDS))}
    kind = draw(st.sampled_from(("login", "login", "more", "cut", "value", "deep", "utf-16")))
    if kind == "more":
        login[draw(st.sampled_from(("email", "password", "role", "_schema", "")))] = draw(VALUES)
    whole = json.dumps(draw(VALUES) if kind == "value" else login, ensure_ascii=draw(st.booleans()))
    data = whole.encode("utf-8", "surrogatepass")
    if kind == "cut":
        at = draw(st.integers(0, len(data)))
        return data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 4)) :]
    return {"deep": b"[" * 9999, "utf-16": data.decode("latin-1").encode("utf-16")}.get(kind, data)


TYPES = (
    b"application/json",
    b"application/json",
    b"application/json; charset=utf-16",
    b"text/plain",
    b"",
    b"a/\xff",
)


@given(
    body=bodies(),
    content_type=st.sampled_from(TYPES),
    chunked=st.booleans(),
    target=st.sampled_from(("/auth/login", "/auth/login", "/auth/login", "/auth/logout", "/api/s3/buckets")),
)
@example(
    json.dumps({"email": "a@b.cc", "password": PASSWORD}).encode(), b"application/json", False, "/auth/login"
)
@FUZZ
def test_no_body_leads_to_a_fault_or_a_token_and_no_password_comes_back(
    gateway: Gateway, body: bytes, content_type: bytes, chunked: bool, target: str
) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    sent = (
        b"".join([*([b"%x\r\n%s\r\n" % (len(body), body)] if body else []), b"0\r\n\r\n"])
        if chunked
        else body
    )
    method = "GET" if target.startswith("/api") else "POST"
    answer = gateway.get(target, b"Content-Type: " + content_type, framing, method=method, body=sent)

    judge(gateway, answer, 413)
    assert PASSWORD not in answer.text
    if target == "/auth/login":
        assert answer.status in ((400, 401, 413) if gateway.required else (404,))
    elif body or chunked:
        assert answer.sent == ()
        assert answer.status in (400, 404)


# Bytes.

REQUESTS = tuple(
    each.replace(b"\n", b"\r\n")
    for each in (
        b"GET /api/s3/buckets?limit=2 HTTP/1.1\nHost: a\nX-API-Key: {key}\nX-Request-ID: b\n\n",
        b"GET /api/parameters?name=a HTTP/1.0\nAuthorization: Bearer {token}\n\n",
        b"POST /auth/login HTTP/1.1\nHost: a\nContent-Type: application/json\nContent-Length: 2\n\n{}",
        b"POST /auth/login HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n2\n{}\n0\nX-A: b\n\n",
        b"OPTIONS * HTTP/1.1\nHost: a\nOrigin: https://a\nAccess-Control-Request-Method: GET\n\n",
    )
)
PUT_IN = (
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"\x00",
    b"\xff",
    b"GET ",
    b" HTTP/1.1",
    b"\r\nHost: b",
    b"/",
    b"%",
)
CHANGES = st.tuples(
    st.floats(0, 1), st.integers(0, 2), st.sampled_from(PUT_IN) | st.sampled_from(PRINTABLE).map(str.encode)
)


@given(request=st.sampled_from(REQUESTS), changes=st.lists(CHANGES, max_size=2))
@FUZZ
def test_no_bytes_lead_to_a_fault(
    gateway: Gateway, request: bytes, changes: list[tuple[float, int, bytes]]
) -> None:
    data = gateway.filled("Authorization", request)
    for where, cut, put in changes:
        at = int(where * len(data))
        data = data[:at] + put + data[at + cut :]
    try:
        answer = gateway.ask(data)
    except Unfinished:
        return

    judge(gateway, answer, 413, 414, 431, 501)
    assert asked_upstream(answer) in ([], *([path] for path in DATA.values()))
