"""Kinds of settings that both services have: where a registry answers."""

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields

_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?\Z")


class HttpAddress(fields.Field[Any]):
    """``http://host:port``, ``https://…``, or ``host:port`` as Consul's and etcd's own tools take it: http.

    No path, no query, no user; given without a trailing slash. No fault repeats any of it, for where a
    user is written a password is too.
    """

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return _address(str(value))


class HttpAddresses(HttpAddress):
    """A tuple of such addresses, read from comma-separated text; every fault says which one it means."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        written = [each.strip() for each in str(value).split(",")]
        return tuple(_address(each, number) for number, each in enumerate(filter(None, written), 1))


def _address(text: str, number: int = 0) -> str:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        plain = parts.path in ("", "/") and not re.search(r"[?#@]", text)
        right = parts.scheme in ("http", "https") and is_host(parts.hostname) and parts.port != 0
    except ValueError:
        plain = right = False
    if not (plain and right):
        which = f"number {number} " if number else ""
        raise ValidationError(f"{which}must be http://host:port or host:port, without path, query or user")
    return f"{parts.scheme}://{parts.netloc}"


def is_host(host: str | None) -> bool:
    """Whether ``host`` is a name or an address, IPv6 without its brackets."""
    if not host:
        return False
    if ":" not in host:
        return bool(_NAME.match(host))
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False
