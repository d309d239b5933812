"""Kinds of settings that both services have: lists and HTTP addresses."""

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields

_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?\Z")


def is_host(host: str | None) -> bool:
    """Whether ``host`` is a name or an address, IPv6 without its brackets."""
    if not host:
        return False
    if ":" not in host:
        return bool(_HOST.match(host))
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


def http_url(address: str, shown: str) -> str:
    """Give ``http://host:port`` or ``https://…`` without a trailing slash.

    Raises :class:`marshmallow.ValidationError`, naming what is ``shown``, for anything else.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise ValidationError(f"{shown!r} is not a URL") from None
    plain = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not is_host(parts.hostname) or port == 0 or not plain:
        raise ValidationError(f"{shown!r} must be http://host:port, without path, query or user")
    return f"{parts.scheme}://{parts.netloc}"


class CommaSeparated(fields.Field[Any]):
    """A tuple read from comma-separated text, each item by :meth:`item`; every fault names its item."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
        items = [item.strip() for item in str(value).split(",")]
        return tuple(self.item(item) for item in items if item)

    def item(self, text: str) -> Any:
        """Read one item or raise :class:`marshmallow.ValidationError`."""
        raise NotImplementedError


class HttpUrls(CommaSeparated):
    """Addresses as :func:`http_url` takes them."""

    def item(self, text: str) -> str:
        """Read one."""
        return http_url(text, text)


class HttpUrl(fields.Field[Any]):
    """One address as :func:`http_url` takes it, or ``host:port`` for ``http://host:port``."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str:
        text = str(value)
        return http_url(text if "://" in text else f"http://{text}", text)
