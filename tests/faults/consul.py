"""A stand-in for a Consul agent: what its HTTP API documents, as far as both services use it, and its faults.

=====================================  ====================================================================
``GET /v1/health/service/<name>``      passing, tag, dc, ns, near; blocking queries by index and wait
``PUT /v1/agent/service/register``     a service and its HTTP checks, which are performed
``PUT /v1/agent/service/deregister/…`` no action for an unknown one
``GET /v1/agent/service/<id>``         404 for an unknown one
=====================================  ====================================================================

Its source is https://developer.hashicorp.com/consul/api-docs: health, agent/service, agent/check, and
features/blocking. It keeps to it but for these:

- No minute is the least for ``DeregisterCriticalServiceAfter``, and no second for ``Interval``: a test has no
  minute. A service is removed after one of its checks, not by a round each half minute.
- A field that it does not know is refused with 400, so that one written wrongly is not passed over.
- There is one node, and ``near`` sorts nothing. Namespaces, a part of Consul Enterprise, are there.
- What waits for a change ends when a fault begins or ends, so that a test need not wait for it.
"""

import hashlib
import http.client
import json
import random
import re
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.end_to_end.processes import HOST, free_port

SERVICE = "auxiliary-service"
PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
DATACENTER = "dc1"

_NODE = {
    "ID": "40e4a748-2192-161a-0510-9bf59fe950b5",
    "Node": "stand-in",
    "Address": HOST,
    "Datacenter": DATACENTER,
    "TaggedAddresses": {"lan": HOST, "wan": HOST},
    "Meta": {},
}
_DEFAULT_WAIT, _LONGEST_WAIT = 300.0, 600.0
# Seconds between two looks at whether a client that waits has left.
_LOOK = 0.05
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_SERVICE_FIELDS: Mapping[str, type] = {
    **dict.fromkeys(("ID", "Name", "Address", "Namespace"), str),
    **dict.fromkeys(("Meta", "Weights", "Check"), dict),
    **dict.fromkeys(("Tags", "Checks"), list),
    "Port": int,
    "EnableTagOverride": bool,
}
_CHECK_FIELDS = dict.fromkeys(
    ("CheckID", "Name", "Notes", "HTTP", "Interval", "Timeout", "DeregisterCriticalServiceAfter", "Status"),
    str,
)


def seconds(text: str) -> float:
    """Read a duration as Go writes it: ``10s``, ``500ms``, ``1h30m``. Raises :class:`ValueError`."""
    parts = _PART.findall(text)
    if text != "0" and (not parts or "".join(number + unit for number, unit in parts) != text):
        raise ValueError(f"time: invalid duration {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Request(NamedTuple):
    """What was asked: ``token`` is whether one was sent, ``at`` a moment of the monotonic clock."""

    at: float
    method: str
    path: str
    query: Mapping[str, str]
    token: bool


class _Answer(NamedTuple):
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    kind: str = "application/json"


class _Refused(Exception):
    """Ends a request with an answer in plain text, as Consul writes its errors."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.answer = _Answer(status, text.encode(), headers, "text/plain; charset=utf-8")


class _Dropped(Exception):
    """Ends a connection without an answer."""


class _Check:
    """One health check; with a URL it is performed, in a thread of its own, until it is stopped."""

    def __init__(
        self,
        id_: str,
        name: str,
        status: str,
        *,
        url: str = "",
        interval: float = 0.0,
        timeout: float = 10.0,
        remove_after: float = 0.0,
    ) -> None:
        self.id, self.name, self.status = id_, name, status
        self.since = monotonic()
        self.url, self.interval, self.timeout, self.remove_after = url, interval, timeout, remove_after
        self._over = threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._started = False

    def start(self, told: "Callable[[_Check, str], None]") -> list[threading.Thread]:
        """Perform it each ``interval``, the first time within one; ``told`` hears what was found.

        Gives its thread; none for what is not performed, or is already.
        """
        if not self.url or self._started:
            return []
        self._started = True
        thread = threading.Thread(target=self._run, args=(told,), name=f"check-{self.id}")
        thread.start()
        return [thread]

    def stop(self) -> None:
        """End it, under way or not; not waited for."""
        self._over.set()
        sock = self._connection.sock if self._connection else None
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _run(self, told: "Callable[[_Check, str], None]") -> None:
        pause = random.uniform(0, self.interval)
        while not self._over.wait(pause):
            told(self, self._perform())
            pause = self.interval

    def _perform(self) -> str:
        parts = urlsplit(self.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=self.timeout)
        try:
            self._connection.request("GET", target, headers={"User-Agent": "Consul Health Check"})
            status = self._connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return CRITICAL
        finally:
            self._connection.close()
        return PASSING if status // 100 == 2 else WARNING if status == 429 else CRITICAL


@dataclass(slots=True, kw_only=True)
class _Instance:
    """A service as it was registered."""

    id: str
    name: str
    address: str = ""
    port: int = 0
    tags: list[str] = field(default_factory=list)
    meta: dict[str, str] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=lambda: {"Passing": 1, "Warning": 1})
    namespace: str = "default"
    enable_tag_override: bool = False
    checks: dict[str, _Check] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Give it as both ``/health/service`` and ``/agent/service`` show it."""
        return {
            "ID": self.id,
            "Service": self.name,
            "Tags": self.tags,
            "Meta": self.meta,
            "Namespace": self.namespace,
            "Port": self.port,
            "Address": self.address,
            "Weights": self.weights,
            "EnableTagOverride": self.enable_tag_override,
        }

    def entry(self) -> dict[str, Any]:
        """Give it as ``/health/service`` shows it, with its node and its checks."""
        about = {"Node": _NODE["Node"], "Notes": "", "Output": "", "Namespace": self.namespace}
        own = {"ServiceID": self.id, "ServiceName": self.name, "ServiceTags": self.tags}
        alive = {"CheckID": "serfHealth", "Name": "Serf Health Status", "Status": PASSING}
        return {
            "Node": _NODE,
            "Service": self.facts(),
            "Checks": [
                {**about, "CheckID": each.id, "Name": each.name, "Status": each.status, **own}
                for each in self.checks.values()
            ]
            + [{**about, **alive, "ServiceID": "", "ServiceName": "", "ServiceTags": []}],
        }

    @property
    def passing(self) -> bool:
        return all(each.status == PASSING for each in self.checks.values())


class Consul:
    """The agent. It keeps its port, what was registered and its journal through any number of faults.

    With ``token`` every request must carry it. Threads may use it; nothing of it is left after ``close``.
    """

    def __init__(self, *, token: str | None = None, port: int | None = None) -> None:
        self.port = port or free_port()
        self.token = token
        self._changed = threading.Condition()
        self._instances: dict[str, _Instance] = {}
        self._threads: list[threading.Thread] = []
        self._requests: list[Request] = []
        self._server: _Server | None = None
        self._fault = ""
        self._status = 500
        self._garbage = b""
        # Counts the beginnings and ends of faults: what waits looks anew.
        self._epoch = 0
        self._waiting = 0
        self._connections = 0
        self._raft = 10
        # Per service the index of its last change; of one that never was it is always safe to say 1.
        self._indexes: dict[str, int] = {}
        self._least = 1

    # In a test's hands.

    @property
    def url(self) -> str:
        """What a gateway or an auxiliary is given."""
        return f"http://{HOST}:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """All that was asked so far, answered or not; a refused connection is none."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        return self._connections

    @property
    def waiting(self) -> int:
        """How many blocking queries wait now."""
        with self._changed:
            return self._waiting

    def service(self, id_: str) -> dict[str, Any] | None:
        """Give what is registered as ``id_``, as ``GET /v1/agent/service/<id>`` has it."""
        with self._changed:
            found = self._instances.get(id_)
            return found.facts() if found else None

    def passing(self, id_: str) -> bool:
        """Whether ``id_`` is registered and passes all its checks."""
        with self._changed:
            return id_ in self._instances and self._instances[id_].passing

    def start(self) -> None:
        """Listen."""
        self._server = _Server(self)

    def close(self) -> None:
        """End all that runs, and wait for it."""
        self._begin("refuse")
        self._stop_listening()
        with self._changed:
            for each in self._instances.values():
                self._end_checks(each.checks.values())
        for thread in self._threads:
            thread.join()

    def add(
        self,
        id_: str,
        address: str,
        port: int,
        weight: int = 1,
        passing: bool = True,
        *,
        service: str = SERVICE,
        tags: Iterable[str] = (),
    ) -> None:
        """Register an instance whose check nobody performs; one of the same id is replaced."""
        check = _Check(f"service:{id_}", f"Service '{service}' check", PASSING if passing else CRITICAL)
        weights = {"Passing": weight, "Warning": 1}
        made = _Instance(id=id_, name=service, address=address, port=port, tags=list(tags), weights=weights)
        made.checks[check.id] = check
        with self._changed:
            self.remove(id_)
            self._instances[id_] = made
            self._touch(service)

    def remove(self, id_: str) -> None:
        """Deregister an instance; nothing for one that is not there."""
        with self._changed:
            gone = self._instances.pop(id_, None)
            if gone is not None:
                self._end_checks(gone.checks.values())
                self._touch(gone.name)

    def set_passing(self, id_: str, passing: bool) -> None:
        """Set all checks of an instance; one that is performed says otherwise the next time."""
        with self._changed:
            for each in self._instances[id_].checks.values():
                self._told(each, PASSING if passing else CRITICAL)

    def touch(self) -> None:
        """Write what changes nothing: the index rises, and whoever waits is answered."""
        with self._changed:
            self._touch()

    def forget_all(self) -> None:
        """Lose the memory, as a restart without a disk does: no service is left, the index is 1."""
        with self._changed:
            for each in self._instances.values():
                self._end_checks(each.checks.values())
            self._instances.clear()
            self.reset_index()

    def reset_index(self, *, quietly: bool = False) -> None:
        """Begin the index anew at 1, as an old snapshot does; ``quietly``, and who waits is left waiting."""
        with self._changed:
            self._raft = self._least = 1
            self._indexes.clear()
            if not quietly:
                self._epoch += 1
            self._changed.notify_all()

    def refuse(self) -> None:
        """Stop listening, and end all connections."""
        self._begin("refuse")
        self._stop_listening()

    def hang(self) -> None:
        """Accept, and never answer; what waits is not answered either."""
        self._begin("hang")

    def status(self, code: int) -> None:
        """Answer everything with this status and a line of text."""
        with self._changed:
            self._status = code
            self._begin("status")

    def garbage(self, body: bytes = b"<html>Bad gateway</html>") -> None:
        """Answer every list with this body and status 200."""
        with self._changed:
            self._garbage = body
            self._begin("garbage")

    def empty(self) -> None:
        """Answer every list with an empty one."""
        self._begin("empty")

    def filtered(self) -> None:
        """Answer every list with an empty one, as if the token may not read the service."""
        self._begin("filtered")

    def thousand(self) -> None:
        """Answer every list with a thousand instances."""
        self._begin("thousand")

    def index_zero(self) -> None:
        """Give 0 as the index of every list."""
        self._begin("index_zero")

    def no_index(self) -> None:
        """Give every list without an index."""
        self._begin("no_index")

    def churn(self) -> None:
        """Raise the index with every answer: no list is waited for."""
        self._begin("churn")

    def back(self) -> None:
        """End the fault. What hung is dropped."""
        self._begin("")
        if self._server is None:
            self.start()

    # Inside.

    def _begin(self, fault: str) -> None:
        with self._changed:
            self._fault = fault
            self._epoch += 1
            self._touch()

    def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.end()

    def _touch(self, name: str | None = None) -> None:
        self._raft += 1
        if name is None:
            self._least = self._raft
            self._indexes.clear()
        else:
            self._indexes[name] = self._raft
        self._changed.notify_all()

    def _end_checks(self, checks: Iterable[_Check]) -> None:
        for each in checks:
            each.stop()

    def _told(self, check: _Check, status: str) -> None:
        with self._changed:
            owner = next((each for each in self._instances.values() if check in each.checks.values()), None)
            if owner is None:
                return
            if status != check.status:
                check.status, check.since = status, monotonic()
                self._touch(owner.name)
            after = check.remove_after
            if status == CRITICAL and after and monotonic() - check.since > after:
                self.remove(owner.id)

    def accepted(self) -> None:
        """Count a connection."""
        with self._changed:
            self._connections += 1

    def answer(
        self, method: str, target: str, token: str | None, body: bytes, gone: Callable[[], bool]
    ) -> _Answer:
        """Answer one request; ``gone`` says whether its client has left."""
        path, _, text = target.partition("?")
        pairs = parse_qsl(text, keep_blank_values=True)
        with self._changed:
            self._requests.append(Request(monotonic(), method, path, dict(pairs), bool(token)))
            try:
                self._spoil(gone)
                if self.token is not None and token != self.token:
                    raise _Refused(403, "Permission denied")
                return self._route(method, path, pairs, body, gone)
            except _Refused as refused:
                return refused.answer

    def _spoil(self, gone: Callable[[], bool]) -> None:
        if self._fault == "status":
            raise _Refused(self._status, "rate limit exceeded" if self._status == 429 else "a fault")
        hung, epoch = self._fault == "hang", self._epoch
        while hung and self._epoch == epoch and not gone():
            self._changed.wait(_LOOK)
        if hung or self._fault == "refuse" or gone():
            raise _Dropped

    def _route(
        self, method: str, path: str, pairs: list[tuple[str, str]], body: bytes, gone: Callable[[], bool]
    ) -> _Answer:
        for prefix, allowed, serve in (
            ("/v1/health/service/", "GET", lambda name: self._health(name, pairs, gone)),
            ("/v1/agent/service/register", "PUT", lambda rest: self._register(rest, dict(pairs), body)),
            ("/v1/agent/service/deregister/", "PUT", self._deregister),
            ("/v1/agent/service/", "GET", self._show),
        ):
            if path.startswith(prefix):
                if method != allowed:
                    raise _Refused(405, f"method {method} not allowed", Allow=allowed)
                return serve(unquote(path[len(prefix) :]))
        raise _Refused(404, "")

    def _health(self, name: str, pairs: list[tuple[str, str]], gone: Callable[[], bool]) -> _Answer:
        query = dict(pairs)
        if not name:
            raise _Refused(400, "Missing service name")
        if query.get("dc", DATACENTER) != DATACENTER:
            raise _Refused(500, "No path to datacenter")
        only_passing = _flag(query, "passing")
        self._wait(name, query, gone)
        self._spoil(gone)
        if self._fault == "churn":
            self._touch()
        tags = {value for key, value in pairs if key == "tag"}
        entries = [
            each.entry()
            for each in self._instances.values()
            if each.name == name
            and each.namespace == query.get("ns", "default")
            and tags <= set(each.tags)
            and (each.passing or not only_passing)
        ]
        headers = {
            "X-Consul-Index": str(self._index(name)),
            "X-Consul-KnownLeader": "true",
            "X-Consul-LastContact": "0",
        }
        return self._spoiled(name, entries, headers)

    def _spoiled(self, name: str, entries: list[dict[str, Any]], headers: dict[str, str]) -> _Answer:
        if self._fault == "garbage":
            return _Answer(200, self._garbage, headers)
        if self._fault in ("empty", "filtered"):
            entries = []
        if self._fault == "filtered":
            headers["X-Consul-Results-Filtered-By-ACLs"] = "true"
        if self._fault == "thousand":
            many = (
                _Instance(
                    id=f"{name}-{number}", name=name, address=f"10.1.{number >> 8}.{number & 255}", port=3001
                )
                for number in range(1000)
            )
            entries = [each.entry() for each in many]
        if self._fault == "index_zero":
            headers["X-Consul-Index"] = "0"
        if self._fault == "no_index":
            del headers["X-Consul-Index"]
        return _Answer(200, _json(entries), headers)

    def _index(self, name: str) -> int:
        return self._indexes.get(name, self._least)

    def _wait(self, name: str, query: Mapping[str, str], gone: Callable[[], bool]) -> None:
        """Wait as documented: for an index above the one that was sent, ``wait`` and a sixteenth at most."""
        try:
            longest = min(seconds(query.get("wait") or "0") or _DEFAULT_WAIT, _LONGEST_WAIT)
        except ValueError:
            raise _Refused(400, "Invalid wait time") from None
        sent = query.get("index") or "0"
        if not re.fullmatch("[0-9]{1,19}", sent):
            raise _Refused(400, "Invalid index")
        if not int(sent) or self._fault == "churn":
            return
        end = monotonic() + longest * (1 + random.random() / 16)
        epoch = self._epoch
        self._waiting += 1
        try:
            while self._index(name) <= int(sent) and self._epoch == epoch:
                left = end - monotonic()
                if left <= 0 or gone():
                    return
                self._changed.wait(min(left, _LOOK))
        finally:
            self._waiting -= 1

    def _register(self, rest: str, query: Mapping[str, str], body: bytes) -> _Answer:
        if rest:
            raise _Refused(404, "")
        given = _decoded(body)
        made = _instance(given)
        checks = [*([given["Check"]] if given.get("Check") else []), *(given.get("Checks") or [])]
        for number, each in enumerate(checks, 1):
            number_text = f":{number}" if len(checks) > 1 else ""
            check = _check(each, f"service:{made.id}{number_text}", f"Service '{made.name}' check")
            made.checks[check.id] = check
        before = self._instances.get(made.id)
        if before is not None:
            self._take_over(before, made, replace=_flag(query, "replace-existing-checks"))
        self._instances[made.id] = made
        if before is None or before.entry() != made.entry():
            for name in {made.name, before.name if before else made.name}:
                self._touch(name)
        for check in made.checks.values():
            self._threads += check.start(self._told)
        return _Answer(200)

    def _take_over(self, before: _Instance, made: _Instance, *, replace: bool) -> None:
        """Keep what outlives a second registration: the state of its checks, and checks it does not name."""
        for id_, check in before.checks.items():
            new = made.checks.get(id_)
            if new is not None:
                new.status, new.since = check.status, check.since
            if new is not None or replace:
                check.stop()
            else:
                made.checks[id_] = check

    def _deregister(self, id_: str) -> _Answer:
        self.remove(id_)
        return _Answer(200)

    def _show(self, id_: str) -> _Answer:
        found = self._instances.get(id_)
        if found is None:
            raise _Refused(404, f"unknown service ID: {id_}")
        digest = hashlib.sha256(_json(found.facts())).hexdigest()[:16]
        facts = {"Kind": "", **found.facts(), "Datacenter": DATACENTER, "ContentHash": digest}
        return _Answer(200, _json(facts), {"X-Consul-ContentHash": digest})


def _json(facts: object) -> bytes:
    return json.dumps(facts, separators=(",", ":")).encode()


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "0")
    if value and value not in _TRUE + _FALSE:
        raise _Refused(400, f"Invalid value for ?{name}")
    return value == "" or value in _TRUE


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except ValueError as error:
        raise _Refused(400, f"Request decode failed: {error}") from None
    return _typed(given, _SERVICE_FIELDS)


def _typed(given: object, fields: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise _Refused(400, "Request decode failed: no object")
    for name, value in given.items():
        if name not in fields or (value is not None and type(value) is not fields[name]):
            raise _Refused(400, f"Request decode failed: {name}")
    return given


def _instance(given: Mapping[str, Any]) -> _Instance:
    """Make what was registered, held to what is documented of each field."""
    name = given.get("Name") or ""
    if not name:
        raise _Refused(400, "Missing service name")
    tags, meta = given.get("Tags") or [], given.get("Meta") or {}
    if not all(isinstance(each, str) for each in (*tags, *meta.values())):
        raise _Refused(400, "Request decode failed: Tags or Meta")
    if len(meta) > 64 or not all(_META_KEY.match(key) and len(meta[key]) <= 512 for key in meta):
        raise _Refused(400, "Invalid Service Meta")
    weights = {"Passing": 1, "Warning": 1, **(given.get("Weights") or {})}
    if not all(type(each) is int for each in weights.values()) or len(weights) > 2:
        raise _Refused(400, "Request decode failed: Weights")
    if not (1 <= weights["Passing"] <= 65535 and 0 <= weights["Warning"] <= 65535):
        raise _Refused(400, "Invalid Weights")
    return _Instance(
        id=given.get("ID") or name,
        name=name,
        address=given.get("Address") or "",
        port=given.get("Port") or 0,
        tags=tags,
        meta=meta,
        weights=weights,
        namespace=given.get("Namespace") or "default",
        enable_tag_override=given.get("EnableTagOverride") or False,
    )


def _check(given: object, id_: str, name: str) -> _Check:
    fields = {key: value for key, value in _typed(given, _CHECK_FIELDS).items() if value}
    try:
        interval = seconds(fields.get("Interval", "0"))
        timeout = seconds(fields.get("Timeout", "10s"))
        remove_after = seconds(fields.get("DeregisterCriticalServiceAfter", "0"))
    except ValueError as error:
        raise _Refused(400, f"Request decode failed: {error}") from None
    url = fields.get("HTTP", "")
    if not url.startswith("http://") or not interval:
        raise _Refused(400, "Invalid check: Interval must be > 0 for HTTP checks; others are not known here")
    # Critical until a check has passed, for who says nothing else.
    status = fields.get("Status", CRITICAL)
    if status not in (PASSING, WARNING, CRITICAL):
        raise _Refused(400, "Invalid check: Status")
    return _Check(
        fields.get("CheckID", id_),
        fields.get("Name", name),
        status,
        url=url,
        interval=interval,
        timeout=timeout,
        remove_after=remove_after,
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: "_Server"

    def serve(self) -> None:
        """Answer one request of a connection."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = self.server.consul.answer(
                self.command, self.path, self.headers.get("X-Consul-Token"), body, self._gone
            )
        except _Dropped:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.body:
            self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = do_OPTIONS = serve  # noqa: N815 - its names

    def _gone(self) -> bool:
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def log_message(self, *_: object) -> None:
        """Say nothing; the journal has it."""


class _Server(ThreadingMixIn, TCPServer):
    """A thread for each connection; none is left after ``end``."""

    daemon_threads = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, consul: Consul) -> None:
        self.consul = consul
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((HOST, consul.port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(_LOOK,), name="consul")
        self._thread.start()

    def end(self) -> None:
        """Stop listening, end all connections, and wait for their threads."""
        self.shutdown()
        self._thread.join()
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        self.consul.accepted()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep silent of clients that left, and of nothing else."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@contextmanager
def consul(*, token: str | None = None) -> Iterator[Consul]:
    """Run a Consul; nothing of it is left when the block has ended."""
    running = Consul(token=token)
    running.start()
    try:
        yield running
    finally:
        running.close()
