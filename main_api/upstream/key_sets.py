"""The public keys of those who issue tokens (RFC 7517), fetched off the way of requests.

A request never waits for an issuer that is slow or gone: the last good set is used on, however old it is.
Only where a key is missing may a few requests wait for a moment, for the issuer may just have made it.
"""

import json
import logging
import random as random_module
import threading
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any, Never

import requests
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWTError
from jwt.algorithms import AllowedPublicKeys
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as urllib3_errors
from urllib3.util import SKIP_HEADER

from main_api.errors import UpstreamUnavailable
from main_api.issuer_fields import Issuer
from main_api.upstream.discovery.ending import EndableAdapter
from main_api.upstream.session import FAILURES, NeverConnected, Session, met

log = logging.getLogger(__name__)

BODY_MOST = 256 * 1024
KEYS_MOST = 64
# Seconds between two fetches, and between two that a missing key has asked for.
FETCH_SECONDS = 15 * 60.0
ASKED_SECONDS = 30.0
# Seconds after a failure: at first, and at most.
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 60.0
_JITTER = 0.1
# Requests that may wait for a key, and how many seconds each.
WAITING_MOST = 4
_WAIT_SECONDS = 1.0
_FETCH_MOST = 5.0
_CONNECT_MOST = 2.0
_RSA_BITS = range(2048, 8192 + 1)
# Beyond it a signature takes long to check, and nobody has such a one.
_EXPONENT_BITS_MOST = 64
# A member of a key: 8192 bits are 1366 characters.
_MEMBER_MOST = 1400
# What is public of each kind of key; nothing else is looked at.
_PUBLIC = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_KINDS = {"ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "EdDSA": ("OKP", "Ed25519")}
_LATE = (TimeoutError, requests.Timeout, urllib3_errors.ReadTimeoutError)
_SENTENCE = "The keys of the token's issuer are not known yet"

Keys = Mapping[str | None, AllowedPublicKeys]


class KeysFailed(Exception):
    """The issuer is silent, or what it says is no set of keys; the text is for operators."""


class Fetch:
    """Asks ``url`` for a key set: 200, at most :data:`BODY_MOST` bytes, five seconds in all, no redirects."""

    def __init__(self, url: str, adapter: HTTPAdapter | None = None) -> None:
        self._url = url
        self._adapter = adapter or EndableAdapter()
        self._session = Session(pool_size=1, connect_timeout=_CONNECT_MOST)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._adapter)

    def __call__(self) -> bytes:
        """Give the body. Raises :class:`KeysFailed`."""
        try:
            request = self._session.prepare("GET", self._url)
            request.headers.update(
                {"Accept": "application/json", "User-Agent": SKIP_HEADER, "Connection": "close"}
            )
            response = self._session.send(request, monotonic() + _FETCH_MOST, fresh=True)
            try:
                return _body(response)
            finally:
                response.close()
        except (*FAILURES, ValueError) as error:
            raise KeysFailed(_reason(error)) from None

    def close(self) -> None:
        """End the one that is under way; whatever is asked from now on fails."""
        self._adapter.close()


class KeySet:
    """A thread that keeps the keys of one issuer; start it after the fork.

    Fetched at once, then every 15 minutes, after a failure soon and then less and less often. A key that is
    not there has it fetched again, at most once in :data:`ASKED_SECONDS`; at most :data:`WAITING_MOST` of
    those who miss one wait for that, ``wait`` seconds at most. ``name`` is the issuer's, for the log.
    """

    def __init__(
        self,
        name: str,
        algorithm: str,
        fetch: Callable[[], bytes],
        *,
        close: Callable[[], object] = lambda: None,
        wait: float = _WAIT_SECONDS,
        clock: Callable[[], float] = monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._name = name
        self._algorithm = algorithm
        self._fetch = fetch
        self._close = close
        self._wait = wait
        self._clock = clock
        self._random = random
        self._keys: Keys | None = None
        self._failing = False
        self._pause = _FIRST_PAUSE
        # Guards what follows; never held while the issuer is asked.
        self._turn = threading.Condition()
        self._fetching = False
        self._fetched = 0
        self._waiting = 0
        self._ask_at = clock()
        self._over = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key-set", daemon=True)

    def start(self) -> None:
        """Begin; the issuer is asked at once."""
        self._thread.start()

    def stop(self) -> None:
        """End, with the fetch that is under way and whoever waits for it."""
        with self._turn:
            self._over = True
            self._turn.notify_all()
        self._wake.set()
        self._close()
        if self._thread.is_alive():
            self._thread.join()

    def key(self, kid: str | None) -> AllowedPublicKeys | None:
        """Give the key of that name; None if the issuer has none. Without a name, give the only key.

        Raises :class:`UpstreamUnavailable` while no set has ever come.
        """
        found = _chosen(self._keys, kid)
        if found is None and (kid is not None or self._keys is None):
            self._await_fetch()
            found = _chosen(self._keys, kid)
        if self._keys is None:
            raise UpstreamUnavailable(_SENTENCE, cause=f"no key set of {self._name} has come")
        return found

    def refresh(self) -> float:
        """Ask the issuer once and take what it gives; give the seconds until it is to be asked again."""
        with self._turn:
            self._fetching = True
            self._wake.clear()
        fault: str | None = None
        try:
            self._keys = usable(self._fetch(), self._algorithm)
        except KeysFailed as error:
            fault = str(error)
        except Exception as error:
            log.exception("fetching the keys of %s failed", self._name)
            fault = type(error).__name__
        with self._turn:
            self._fetching = False
            self._fetched += 1
            self._turn.notify_all()
        return self._next(fault)

    def _next(self, fault: str | None) -> float:
        if fault is None:
            if self._failing:
                log.info("%s: its keys come again", self._name)
            self._failing, self._pause = False, _FIRST_PAUSE
            return self._jittered(FETCH_SECONDS)
        if not self._failing and not self._over:
            kept = "its last ones are used on" if self._keys else "none are known"
            log.warning("%s: its keys do not come: %s; %s", self._name, fault, kept)
        self._failing = True
        pause, self._pause = self._pause, min(_LAST_PAUSE, 2 * self._pause)
        return self._jittered(pause)

    def _await_fetch(self) -> None:
        with self._turn:
            if not self._fetching:
                now = self._clock()
                if now < self._ask_at:
                    return
                self._ask_at = now + ASKED_SECONDS
                # From here on: whoever comes now waits for the same one.
                self._fetching = True
                self._wake.set()
            if self._waiting >= WAITING_MOST:
                return
            self._waiting += 1
            before = self._fetched
            self._turn.wait_for(lambda: self._fetched != before or self._over, self._wait)
            self._waiting -= 1

    def _run(self) -> None:
        pause = 0.0
        while not self._over:
            self._wake.wait(pause)
            if not self._over:
                pause = self.refresh()

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + _JITTER * (2 * self._random() - 1))


class KeySets:
    """A :class:`KeySet` for each issuer; called with an issuer's name it gives the one."""

    def __init__(self, issuers: Iterable[Issuer], fetch: Callable[[str], Fetch] = Fetch) -> None:
        self._sets: dict[str, KeySet] = {}
        for each in issuers:
            asked = fetch(each.jwks)
            self._sets[each.issuer] = KeySet(each.issuer, each.algorithm, asked, close=asked.close)

    def __call__(self, issuer: str) -> KeySet:
        """Give the key set of an issuer that there is."""
        return self._sets[issuer]

    def start(self) -> None:
        """Begin, all at the same time; do it after the fork."""
        for each in self._sets.values():
            each.start()

    def stop(self) -> None:
        """End."""
        for each in self._sets.values():
            each.stop()


def usable(body: bytes, algorithm: str) -> Keys:
    """Read a key set: by their names, the keys that ``algorithm`` can be checked with.

    A key without a name counts only where there is no other, and is then found by any. Raises
    :class:`KeysFailed` for what is no set, or has no such key; nothing else, whatever it is.
    """
    try:
        read = json.loads(body.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise KeysFailed("the answer is no JSON") from None
    listed = read.get("keys") if isinstance(read, dict) else None
    if not isinstance(listed, list):
        raise KeysFailed("the answer is no set of keys")
    if len(listed) > KEYS_MOST:
        raise KeysFailed(f"more than {KEYS_MOST} keys")
    found: list[tuple[str | None, AllowedPublicKeys]] = [
        (_name(each), key) for each in listed if (key := _key(each, algorithm)) is not None
    ]
    named: Keys = {name: key for name, key in reversed(found) if name is not None}
    if not found or (not named and len(found) > 1):
        raise KeysFailed(f"none of its {len(listed)} keys is of use with {algorithm}")
    return named or dict(found)


def _chosen(keys: Keys | None, kid: str | None) -> AllowedPublicKeys | None:
    if keys is None:
        return None
    if len(keys) == 1 and (kid is None or None in keys):
        return next(iter(keys.values()))
    return keys.get(kid)


def _name(jwk: Mapping[str, object]) -> str | None:
    name = jwk.get("kid")
    return name if isinstance(name, str) else None


def _key(jwk: object, algorithm: str) -> AllowedPublicKeys | None:
    """Make a key of what is public of ``jwk``; None if it is of no use with ``algorithm``."""
    kind, curve = _KINDS.get(algorithm, ("RSA", ""))
    if not isinstance(jwk, dict) or jwk.get("kty") != kind or (curve and jwk.get("crv") != curve):
        return None
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", algorithm) != algorithm:
        return None
    members = {name: jwk.get(name) for name in _PUBLIC[kind]}
    if not all(isinstance(each, str) and len(each) <= _MEMBER_MOST for each in members.values()):
        return None
    try:
        key = PyJWK({"kty": kind, **members}, algorithm).key
    except (PyJWTError, ValueError):
        return None
    return key if _is_sound(key) else None


def _is_sound(key: Any) -> bool:
    if isinstance(key, RSAPublicKey):
        return key.key_size in _RSA_BITS and key.public_numbers().e.bit_length() <= _EXPONENT_BITS_MOST
    return True


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON")


def _body(response: requests.Response) -> bytes:
    if response.status_code != 200:
        raise KeysFailed(f"status {response.status_code}")
    body: bytes = response.raw.read(BODY_MOST + 1, decode_content=False)
    if len(body) > BODY_MOST:
        raise KeysFailed(f"the answer has more than {BODY_MOST} bytes")
    # Asked for more than there is, urllib3 gives what came before the end without a word.
    if response.raw.length_remaining:
        raise KeysFailed("broken off: its end is missing")
    return body


def _reason(error: Exception) -> str:
    """Say what went wrong; never an outer error's text, for the URL is in it."""
    inner = met(error)
    if isinstance(error, NeverConnected):
        return f"no connection: {type(inner).__name__}"
    return "no answer in time" if isinstance(inner, _LATE) else f"broken off: {type(inner).__name__}"
