"""Instances in etcd: what stands below a prefix, as etcd's own naming package writes it.

etcd is spoken to through its JSON gateway (etcd.io: "gRPC gateway", "API reference"): bytes are base64,
numbers of 64 bits are texts, and what is zero, false or empty is left out.
"""

import base64
import binascii
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as urllib3_errors
from urllib3.util import SKIP_HEADER

from main_api.upstream.connecting import Resolver
from main_api.upstream.connections import Sending, current
from main_api.upstream.discovery.ending import EndableAdapter
from main_api.upstream.discovery.source import WEIGHT_MOST, Address, Listing, SourceFailed, shortest
from main_api.upstream.session import met

log = logging.getLogger(__name__)

# More below one prefix is a wrong prefix, "/" say: it is noticed before all of it is here.
KEYS_MOST = 1024
_TOO_MANY = f"more than {KEYS_MOST} keys"
# No answer, and no message of a watch, is longer.
BODY_MOST = 4 * 1024 * 1024
# What a message that comes in fragments may add up to.
EVENTS_MOST = 16 * KEYS_MOST

# Seconds for which a watch is believed. Then all is asked for anew: a connection that is dead and does not
# say so, or a member that the others have left behind, looks just like one that has nothing to tell.
WATCH_SECONDS = 10.0
# Seconds to connect; for one endpoint to give a list; and for all of them together: with the watch before it,
# a read ends within half a minute.
_CONNECT_SECONDS = 1.0
_ASK_SECONDS = 2.0
_ASK_ALL_SECONDS = 12.0
# Twenty changes may come at once, then twenty a second. In an uproar beyond that the list is ranged over
# after a pause instead, so that it is no load here and never far behind.
_CHANGE_SECONDS, _BURST_SECONDS, _UPROAR_SECONDS = 0.05, 1.0, 0.25
# Seconds after a second watch in a row that failed: the list is then asked for as often as this.
_UNWATCHED_SECONDS = 1.0

# A wait for the deadline may end so much before it.
_ROUNDING = 0.05
_PIECE = 64 * 1024
_SAID_MOST = 120
_NAMED_MOST = 5

_LATE = (TimeoutError, requests.Timeout, urllib3_errors.TimeoutError)
_FAILURES = (requests.RequestException, urllib3_errors.HTTPError, OSError)

_ADDRESS = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)\]|(?P<four>[0-9.]+)):(?P<port>[1-9][0-9]{0,4})"
)
_NUMBER = re.compile(r"[0-9]{1,19}")


class Entry(NamedTuple):
    """What one key says: an instance, if it is one, and what of it is of no use."""

    address: Address | None
    fault: str = ""


class Event(NamedTuple):
    """One change: a key, what it says now (``None``: it is gone), and the revision that made it."""

    key: bytes
    entry: Entry | None
    revision: int


class WatchOver(Exception):
    """A watch tells nothing more; its argument says why, and whether the endpoint is at fault."""

    def __init__(self, why: str, *, ill: bool = False) -> None:
        super().__init__(why)
        self.ill = ill


def entry(value: bytes) -> Entry:
    """Read a value: ``{"Addr": "10.0.0.1:3001", "Metadata": {"weight": 2}}`` (client/v3/naming/endpoints).

    ``Op`` is not looked at, nor is it by etcd's own client. A weight that is none counts as 1; whoever
    registers a bad weight is still there to be asked.
    """
    try:
        facts = _object(json.loads(value.decode()))
        ip, port = _listens(facts.get("Addr"))
    except (ValueError, RecursionError) as error:
        return Entry(None, _reason(error))
    metadata = facts.get("Metadata")
    weight = metadata.get("weight", 1) if isinstance(metadata, dict) else 1
    if type(weight) is not int or weight < 1:
        return Entry(Address(ip, port), "weight is no whole number above 0")
    return Entry(Address(ip, port, min(weight, WEIGHT_MOST)))


def _listens(value: object) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found["port"]) > 65535:
        raise ValueError("no address and port")
    ip = shortest(found["four"] or found["six"])
    if ip is None:
        raise ValueError("no IP address")
    return ip, int(found["port"])


def parsed(text: bytes) -> dict[str, Any]:
    """Read one answer or message. Raises :class:`ValueError` for whatever is no JSON object."""
    try:
        return _object(json.loads(text.decode()))
    except RecursionError as error:
        raise ValueError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Say what is wrong without a byte of what it is wrong with."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeError | json.JSONDecodeError | binascii.Error):
        return "neither UTF-8 nor JSON nor base64"
    return str(error)[:_SAID_MOST]


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("no JSON list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _number(value: object) -> int:
    """Read a number of 64 bits, which JSON carries as a text."""
    if type(value) is int and 0 <= value < 2**63:
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    raise ValueError("no number")


def _bytes(value: object) -> bytes:
    return base64.b64decode(_text(value), validate=True)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _revision(answer: dict[str, Any]) -> int:
    return _number(_object(answer.get("header", {})).get("revision", 0))


def ranged(answer: dict[str, Any]) -> tuple[int, dict[bytes, Entry]]:
    """Read the answer to a range: its revision, and what each key says. Raises :class:`ValueError`."""
    found: dict[bytes, Entry] = {}
    for each in _list(answer.get("kvs", [])):
        pair = _object(each)
        found[_bytes(pair.get("key"))] = entry(_bytes(pair.get("value", "")))
    return _revision(answer), found


def _event(value: object) -> Event:
    facts = _object(value)
    pair = _object(facts.get("kv"))
    kind = facts.get("type", "PUT")
    if kind not in ("PUT", "DELETE"):
        raise ValueError("an unknown event")
    said = entry(_bytes(pair.get("value", ""))) if kind == "PUT" else None
    return Event(_bytes(pair.get("key")), said, _number(pair.get("mod_revision")))


class Lines:
    """Puts lines together again, however the stream that they came in was cut."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Give the lines that ``piece`` completes. Raises :class:`ValueError` for one that is too long."""
        *ends, rest = piece.split(b"\n")
        lines = []
        for end in ends:
            lines.append(bytes(self._rest + end))
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > self._most:
            raise ValueError("a message that is too long")
        return [line for line in lines if line.strip()]


class Keys:
    """What stands below the prefix: a range of ``revision``, and the changes since then."""

    def __init__(self, revision: int, found: dict[bytes, Entry]) -> None:
        self.revision = revision
        self._found = found
        self._held: list[Event] = []
        self.addresses = self._addresses()

    @property
    def faults(self) -> frozenset[tuple[bytes, str]]:
        """Which keys are of no use, and why."""
        return frozenset((key, said.fault) for key, said in self._found.items() if said.fault)

    def apply(self, message: dict[str, Any]) -> None:
        """Take one message of a watch. Raises :class:`WatchOver`, or :class:`ValueError` for nonsense."""
        if "error" in message:
            raise WatchOver(in_few_words(message["error"]), ill=True)
        result = _object(message.get("result"))
        if 0 < _revision(result) < self.revision:
            # etcd has lost data, or another member answers that is behind.
            raise WatchOver("its revision went back")
        if result.get("canceled"):
            if "compact_revision" in result:
                raise WatchOver("what it was to tell is compacted")
            raise WatchOver(f"canceled: {in_few_words(result.get('cancel_reason'))}", ill=True)
        self._held += map(_event, _list(result.get("events", [])))
        if len(self._held) > EVENTS_MOST:
            raise ValueError("a message that is too long")
        # What came to pass at once is told at once, however many pieces it comes in.
        if not result.get("fragment"):
            self._tell()

    def _tell(self) -> None:
        for key, now, revision in self._held:
            if revision <= self.revision:
                continue
            if now is None:
                self._found.pop(key, None)
            elif now.address is not None or key not in self._found:
                self._found[key] = now
            else:
                # Nonsense in the place of an address: the last good one is as good as any list that is kept.
                self._found[key] = now._replace(address=self._found[key].address)
        self._held.clear()
        if len(self._found) > KEYS_MOST:
            raise WatchOver(_TOO_MANY)
        self.addresses = self._addresses()

    def _addresses(self) -> tuple[Address, ...]:
        return tuple(sorted({each.address for each in self._found.values() if each.address}))


def in_few_words(error: object) -> str:
    """Shorten what etcd says of an error, which may be a text or an object that has one."""
    if isinstance(error, dict):
        error = error.get("message", error.get("error"))
    text = error if isinstance(error, str) and error else "no reason given"
    return "".join(each if each.isprintable() else "?" for each in text[:_SAID_MOST])


class _Gateway:
    """etcd's JSON gateway. Each question has a connection of its own, which :meth:`close` can end.

    The environment is not looked at (proxies, ``~/.netrc``), and no redirect is followed.
    """

    def __init__(self, adapter: HTTPAdapter | None) -> None:
        self._adapter = adapter or EndableAdapter()
        self._resolver = Resolver()
        self.closed = False

    def ask(self, url: str, question: dict[str, Any], seconds: float, deadline: float) -> requests.Response:
        """Give the answer, its body unread; ``deadline``, ``seconds`` from now, bounds reading that too."""
        if self.closed:
            raise SourceFailed("closed")
        headers = {"Content-Type": "application/json", "User-Agent": SKIP_HEADER, "Connection": "close"}
        token = current.set(Sending(self._resolver, deadline, fresh=True))
        try:
            request = requests.Request("POST", url, headers, data=json.dumps(question).encode()).prepare()
            return self._adapter.send(request, stream=True, timeout=(min(_CONNECT_SECONDS, seconds), seconds))
        finally:
            current.reset(token)

    def close(self) -> None:
        """End every connection, also under whoever waits for it."""
        self.closed = True
        self._adapter.close()


class _Watch:
    """The answer to a watch, which goes on until its deadline."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self._lines = Lines(BODY_MOST)

    def messages(self) -> list[dict[str, Any]]:
        """Wait for the next piece, and give what it completes."""
        piece = self._response.raw.read1(_PIECE, decode_content=False)
        if not piece:
            raise WatchOver("the connection ended", ill=True)
        return [parsed(line) for line in self._lines.feed(piece)]

    def close(self) -> None:
        self._response.close()


class EtcdSource:
    """``etcd://prefix``: each key below ``prefix`` and a slash is an instance (see :func:`entry`).

    ``endpoints`` are URLs such as ``http://10.0.0.5:2379``; one is asked as long as it answers, then the
    next one, in the same read. The list is ranged over first, then watched. A range is linearizable, so
    no member gives it that has lost the others. When a watch ends, for whatever reason, the truth is a
    range again; if etcd refuses watches, a range each second.
    """

    def __init__(
        self,
        name: str,
        prefix: str,
        endpoints: Sequence[str],
        *,
        adapter: HTTPAdapter | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        if not endpoints:
            raise ValueError("endpoints: at least one needed")
        below = prefix.rstrip("/").encode()
        # All that begins with the prefix and "/" comes before the prefix and "0", the character behind it.
        self._keys_asked = {"key": _base64(below + b"/"), "range_end": _base64(below + b"0")}
        self._endpoints = tuple(each.rstrip("/") for each in endpoints)
        self._gateway = _Gateway(adapter)
        self._clock = clock
        self._at = 0
        self._keys: Keys | None = None
        # Guards the watch that is open between two reads: either a read takes it, or close() does.
        self._lock = threading.Lock()
        self._waiting: _Watch | None = None
        self._watched_until = 0.0
        self._calm_at = 0.0
        self._failed_watches = 0
        self._watch_fault = ""
        self._faults: frozenset[tuple[bytes, str]] = frozenset()

    def read(self) -> Listing:
        """Give the list: at once the first time, else when it has changed or ten seconds have passed."""
        try:
            return self._read()
        except SourceFailed:
            self._keys = None
            raise

    def close(self) -> None:
        """End the connections; a ``read`` that waits fails at once, and so does each one after it."""
        self._gateway.close()
        with self._lock:
            watch, self._waiting = self._waiting, None
        if watch is not None:
            watch.close()

    def _read(self) -> Listing:
        again = 0.0
        if self._keys is not None:
            try:
                self._await_change(self._keys)
                return self._listing(self._keys, self._paced())
            except WatchOver as over:
                again = self._after(over)
        self._keys = self._range()
        return self._listing(self._keys, again)

    def _paced(self) -> float:
        """Count a change; give the seconds until the next read, which in an uproar begins anew."""
        now = self._clock()
        self._calm_at = max(self._calm_at, now) + _CHANGE_SECONDS
        if self._calm_at <= now + _BURST_SECONDS:
            return 0.0
        self._keys = None
        watch = self._take()
        if watch is not None:
            watch.close()
        return _UPROAR_SECONDS

    def _await_change(self, keys: Keys) -> None:
        before = keys.addresses
        watch = self._take()
        try:
            if watch is None:
                watch = self._watch(keys.revision)
            while keys.addresses == before:
                for message in watch.messages():
                    keys.apply(message)
            if self._keep(watch):
                watch = None
        except _FAILURES as error:
            if isinstance(met(error), _LATE) and self._clock() >= self._watched_until - _ROUNDING:
                raise WatchOver("") from error
            raise WatchOver(_named(error), ill=True) from error
        except ValueError as error:
            raise WatchOver(f"not understood: {_reason(error)}", ill=True) from error
        finally:
            if watch is not None:
                watch.close()
        self._failed_watches = 0

    def _take(self) -> _Watch | None:
        with self._lock:
            watch, self._waiting = self._waiting, None
        return watch

    def _keep(self, watch: _Watch) -> bool:
        with self._lock:
            if self._gateway.closed:
                return False
            self._waiting = watch
        return True

    def _watch(self, revision: int) -> _Watch:
        asked = {
            **self._keys_asked,
            "start_revision": str(revision + 1),
            "progress_notify": True,
            "fragment": True,
        }
        self._watched_until = self._clock() + WATCH_SECONDS
        response = self._gateway.ask(
            self._endpoints[self._at] + "/v3/watch",
            {"create_request": asked},
            WATCH_SECONDS,
            self._watched_until,
        )
        if response.status_code != 200:
            response.close()
            raise WatchOver(f"status {response.status_code}", ill=True)
        return _Watch(response)

    def _after(self, over: WatchOver) -> float:
        """Give the seconds until the next watch: a first failure is a restart, a second may be forever."""
        why = str(over)
        if not why:
            self._failed_watches, self._watch_fault = 0, ""
            return 0.0
        if over.ill and not self._gateway.closed:
            if why != self._watch_fault:
                log.warning("%s: the watch at %s is over: %s", self.name, self._here, why)
            self._watch_fault = why
            self._at = (self._at + 1) % len(self._endpoints)
        self._failed_watches += 1
        return 0.0 if self._failed_watches == 1 else _UNWATCHED_SECONDS

    @property
    def _here(self) -> str:
        # A URL may have a password in it.
        return urlsplit(self._endpoints[self._at]).netloc.rpartition("@")[2]

    def _range(self) -> Keys:
        faults: dict[int, str] = {}
        seconds = min(_ASK_SECONDS, _ASK_ALL_SECONDS / len(self._endpoints))
        for _ in self._endpoints:
            try:
                return self._range_here(seconds)
            except _FAILURES as error:
                fault = _named(error)
            except ValueError as error:
                fault = _reason(error)
            if self._gateway.closed:
                raise SourceFailed("closed")
            faults[self._at] = f"{self._here}: {fault}"
            self._at = (self._at + 1) % len(self._endpoints)
        # In the order of the configuration, whoever was asked first: the same fault is the same text.
        raise SourceFailed("; ".join(faults[each] for each in sorted(faults)))

    def _range_here(self, seconds: float) -> Keys:
        response = self._gateway.ask(
            self._endpoints[self._at] + "/v3/kv/range",
            {**self._keys_asked, "limit": str(KEYS_MOST)},
            seconds,
            self._clock() + seconds,
        )
        with response:
            body: bytes = response.raw.read(BODY_MOST + 1, decode_content=False)
        if len(body) > BODY_MOST:
            raise ValueError("an answer that is too long")
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}{_explained(body)}")
        try:
            answer = parsed(body)
            revision, found = ranged(answer)
        except ValueError as error:
            raise ValueError(f"not understood: {_reason(error)}") from error
        if answer.get("more") or len(found) > KEYS_MOST:
            raise SourceFailed(_TOO_MANY)
        return Keys(revision, found)

    def _listing(self, keys: Keys, again: float) -> Listing:
        faults = keys.faults
        if faults and faults != self._faults:
            some = sorted(faults)[:_NAMED_MOST]
            log.warning("%s: %d keys are of no use, such as %s", self.name, len(faults), _shown(some))
        self._faults = faults
        return Listing(keys.addresses, again)


def _shown(faults: Iterable[tuple[bytes, str]]) -> str:
    return ", ".join(f"{key.decode('utf-8', 'replace')[:_SAID_MOST]!r} ({why})" for key, why in faults)


def _explained(body: bytes) -> str:
    try:
        return f": {in_few_words(parsed(body))}"
    except ValueError:
        return ""


def _named(error: Exception) -> str:
    """Say what was met, whatever it was wrapped in."""
    inner = met(error)
    if isinstance(inner, _LATE):
        return "no answer in time"
    # The text of one of requests' own may be the URL.
    if isinstance(inner, OSError) and not isinstance(inner, requests.RequestException):
        return inner.strerror or str(inner) or type(inner).__name__
    return type(inner).__name__
