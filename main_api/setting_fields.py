"""Kinds of settings that only the gateway has: lists, networks, addresses, origins."""

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields

from chassis.client_address import Network

_WEIGHT = re.compile(r"weight=([1-9][0-9]{0,2}|1000)\Z")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?\Z")


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


class Origins(CommaSeparated):
    """Origins as browsers send them: ``*``, or ``https://app.example`` without a path."""

    def item(self, text: str) -> str:
        """Read one origin."""
        if not re.fullmatch(r"\*|https?://[A-Za-z0-9.\-\[\]:]{1,253}", text):
            raise ValidationError(f"{text!r} must be * or an origin such as https://app.example")
        return text
