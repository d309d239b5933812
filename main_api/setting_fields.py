"""Kinds of settings that only the gateway has: lists, networks, addresses, origins."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from marshmallow import ValidationError, fields

from chassis.client_address import Network

_WEIGHT = re.compile(r"weight=([1-9][0-9]{0,2}|1000)\Z")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?\Z")

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


class Networks(CommaSeparated):
    """CIDRs, ``10.0.0.0/8,fd00::/8``; a single address is a network of one."""

    def item(self, text: str) -> Network:
        """Read one network; bits set right of the prefix are a fault, for the typing error they show."""
        try:
            return ipaddress.ip_network(text)
        except ValueError as error:
            raise ValidationError(f"{error}; write a network such as 10.0.0.0/8") from None


class Urls(CommaSeparated):
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
        if parts.scheme not in ("http", "https") or not _is_host(parts.hostname) or port == 0 or not plain:
            raise ValidationError(f"{text!r} must be http://host:port, without path, query or user")
        return f"{parts.scheme}://{parts.netloc}"


def _is_host(host: str | None) -> bool:
    if not host:
        return False
    if ":" not in host:
        return bool(_HOST.match(host))
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


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
        place = _is_host(parts.hostname) and bool(_DATABASE.match(parts.path))
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
