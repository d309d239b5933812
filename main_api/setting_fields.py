"""Kinds of settings that only the gateway has: lists, networks, addresses, registries, origins."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import limits
from marshmallow import ValidationError, fields

from chassis.client_address import Network
from chassis.setting_fields import is_host
from main_api.exchange import Window

_WEIGHT = re.compile(r"weight=([1-9][0-9]{0,2}|1000)\Z")

_A_LIMIT = "one limit such as 100 per 15 minutes is needed, of at most a month"
_AMOUNT_MOST = 10**9
_WINDOW_MOST = 31 * 86400

_DATABASE = re.compile(r"(/[0-9]{0,5})?\Z")
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_REDIS_OPTIONS = {
    "redis": frozenset(("db",)),
    "rediss": frozenset(("db", *_TLS)),
    "unix": frozenset(("db", "username", "password")),
}


class CommaSeparated(fields.Field[Any]):
    """A tuple read from comma-separated text, each item by :meth:`item`; every fault names its item."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
        items = [item.strip() for item in str(value).split(",")]
        return tuple(self.item(item) for item in items if item)

    def item(self, text: str) -> Any:
        """Read one item or raise :class:`marshmallow.ValidationError`."""
        raise NotImplementedError


class CommaSeparatedText(CommaSeparated):
    """Texts as they are."""

    def item(self, text: str) -> str:
        """Give it back."""
        return text


class Networks(CommaSeparated):
    """CIDRs, ``10.0.0.0/8,fd00::/8``; a single address is a network of one."""

    def item(self, text: str) -> Network:
        """Read one network; bits set right of the prefix are a fault, for the typing error they show."""
        try:
            return ipaddress.ip_network(text)
        except ValueError as error:
            raise ValidationError(f"{error}; write a network such as 10.0.0.0/8") from None


class InstanceUrls(CommaSeparated):
    """Addresses of instances: ``http://host:port`` or ``https://…``, without path, query or user.

    Behind it may stand ``;weight=n``, 1 to 1000.
    """

    def item(self, text: str) -> str:
        """Read one address, without a trailing slash."""
        address, semicolon, weight = text.partition(";")
        if semicolon and not _WEIGHT.match(weight):
            raise ValidationError(f"{text!r}: weight=1 to weight=1000 needed behind the semicolon")
        return self._url(address, text) + semicolon + weight

    def _url(self, address: str, text: str) -> str:
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError:
            raise ValidationError(f"{text!r} is not a URL") from None
        plain = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
        if parts.scheme not in ("http", "https") or not is_host(parts.hostname) or port == 0 or not plain:
            raise ValidationError(f"{text!r} must be http://host:port, without path, query or user")
        return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True, slots=True)
class Registered:
    """A service whose instances a registry knows: ``text`` is the address as it was written.

    ``kind`` is one of :data:`REGISTRIES`; ``name`` what the registry knows the service by; ``port`` only
    with ``dns``; ``options`` only with ``consul``.
    """

    text: str
    kind: str
    name: str
    port: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


REGISTRIES = ("dns", "srv", "consul", "etcd")
_FORMS = "dns://name:port, srv://name, consul://service or etcd://prefix"
_CONSUL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_CONSUL_OPTIONS = frozenset(("dc", "tag", "ns"))
_ETCD_PREFIX = re.compile(r"[!-.0-9:;=@-_a-z{|}~/]{1,256}\Z")


class ServiceAddress(InstanceUrls):
    """Where a service is: addresses as :class:`InstanceUrls` takes them, or one of a registry."""

    def _deserialize(self, value: Any, *args: Any, **options: Any) -> Any:
        text = str(value).strip()
        scheme, found, rest = text.partition("://")
        if not found or scheme not in REGISTRIES:
            listed = super()._deserialize(value, *args, **options)
            if not listed:
                raise ValidationError("at least one address is needed")
            return listed
        made = self._registered(text, scheme, rest)
        if made is None:
            raise ValidationError(f"{text!r} must be {_FORMS}, and the only address")
        return made

    def _registered(self, text: str, kind: str, rest: str) -> Registered | None:
        if kind == "etcd":
            name = rest.rstrip("/")
            return Registered(text, kind, name) if _ETCD_PREFIX.match(name) else None
        try:
            parts = urlsplit(f"{kind}://{rest}")
            given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
            port, options = parts.port, dict(given)
        except ValueError:
            return None
        name = parts.netloc.rpartition(":")[0] if port else parts.netloc
        if parts.path or parts.fragment or len(options) < len(given):
            return None
        if kind == "consul":
            known = not port and _CONSUL_NAME.match(name) and options.keys() <= _CONSUL_OPTIONS
            known = known and all(_CONSUL_NAME.match(each) for each in options.values())
            return Registered(text, kind, name, options=options) if known else None
        right = is_host(name) and ":" not in name and bool(port) == (kind == "dns") and not parts.query
        return Registered(text, kind, name, port) if right else None


class Servers(CommaSeparated):
    """Addresses of DNS servers: ``10.0.0.2``, ``127.0.0.1:8600``, ``[::1]:53``; pairs of IP and port."""

    def item(self, text: str) -> tuple[str, int]:
        """Read one; its port is 53 if it has none."""
        try:
            # A second colon is IPv6's, unless it stands in brackets.
            bare = text.count(":") > 1 and not text.startswith("[")
            parts = urlsplit(f"//[{text}]" if bare else f"//{text}")
            server = ipaddress.ip_address(parts.hostname or "")
            port = 53 if parts.port is None else parts.port
        except ValueError:
            raise ValidationError(f"{text!r} must be an IP address, with or without a port") from None
        if not port or parts.path or parts.query or "@" in parts.netloc:
            raise ValidationError(f"{text!r} must be an IP address, with or without a port")
        return str(server), port


def window(text: str) -> Window:
    """Read ``100 per 15 minutes`` or ``5/second``; raises :class:`ValueError` for anything else."""
    try:
        # Of several, `limits.parse` takes the first without a word.
        [read] = limits.parse_many(text)
    except ValueError:
        raise ValueError(_A_LIMIT) from None
    if not 1 <= read.amount <= _AMOUNT_MOST or not 1 <= read.get_expiry() <= _WINDOW_MOST:
        raise ValueError(_A_LIMIT)
    return Window(read.amount, read.get_expiry())


class Limit(fields.Field[Any]):
    """A :class:`main_api.exchange.Window`, as :func:`window` reads it."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Window:
        try:
            return window(str(value))
        except ValueError as error:
            raise ValidationError(str(error)) from None


class RedisUrl(fields.String):
    """``redis://user:password@host:port/database``, ``rediss://…``, or ``unix:///path/to/socket?db=0``.

    Of redis-py's options only those below are taken: the others would undo what bounds its waits, or
    be found wrong by the first request. No fault repeats any of it, for a password may be anywhere.
    """

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str:
        text = str(value)
        try:
            parts = urlsplit(text)
            given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
            options = dict(given)
            if parts.port == 0 or len(options) < len(given):
                raise ValueError
        except ValueError:
            raise ValidationError("not a URL; percent-encode what is special in a password") from None
        fault = _redis_fault(parts, options)
        if fault:
            raise ValidationError(fault)
        return text


def _redis_fault(parts: SplitResult, options: Mapping[str, str]) -> str:
    """Name what is wrong with the URL of a Redis, without a part of it; nothing for nothing."""
    if parts.scheme not in _REDIS_OPTIONS:
        return "must begin with redis://, rediss:// or unix://"
    if parts.fragment or not options.keys() <= _REDIS_OPTIONS[parts.scheme]:
        return f"behind the ? only {', '.join(sorted(_REDIS_OPTIONS[parts.scheme]))} may stand"
    if parts.scheme == "unix":
        place = parts.path.startswith("/") and parts.path != "/"
    else:
        place = is_host(parts.hostname) and bool(_DATABASE.match(parts.path))
    if not place:
        return "must be redis://host:port/database, rediss:// the same, or unix:///path/to/socket"
    return "" if options.get("db", "0").isdecimal() else "db must be a number"


class Origins(CommaSeparated):
    """Origins as browsers send them: ``*``, or ``https://app.example`` without a path."""

    def item(self, text: str) -> str:
        """Read one origin."""
        if not re.fullmatch(r"\*|https?://[A-Za-z0-9.\-\[\]:]{1,253}", text):
            raise ValidationError(f"{text!r} must be * or an origin such as https://app.example")
        return text
