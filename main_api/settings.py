"""The gateway's settings."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields, validate

from chassis.client_address import Network
from chassis.settings import ServiceSettings, setting

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
    """Addresses of instances: ``http://host:port`` or ``https://…``, without path, query or user."""

    def item(self, text: str) -> str:
        """Read one address, without a trailing slash."""
        try:
            parts = urlsplit(text)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServiceSettings):
    """What the gateway reads from its environment."""

    SERVICE: ClassVar[str] = "main-api"
    UNAVAILABLE: ClassVar[tuple[str, ...]] = ("GATEWAY_CONFIG", "OPERATIONS_PORT", "REDIS_URL")

    auxiliary_service_url: tuple[str, ...] = setting(
        Urls(validate=validate.Length(1)),
        default=("http://localhost:3001",),
        text="address of the auxiliary service; several, comma-separated, are several instances",
    )
    request_timeout: float = setting(
        fields.Float(validate=validate.Range(0.1, 300)), default=10.0, text="seconds for a whole request"
    )
    connect_timeout: float = setting(
        fields.Float(validate=validate.Range(0.01, 60)),
        default=0.5,
        text="seconds for a connection to an instance",
    )
    pool_size: int = setting(
        fields.Integer(validate=validate.Range(1, 1024)),
        default=50,
        text="connections kept per instance; at least `GUNICORN_THREADS`",
    )
    upstream_max_body: int = setting(
        fields.Integer(validate=validate.Range(1024, 1024**3)),
        default=16 * 1024**2,
        text="bytes that one answer of the auxiliary may have",
    )
    cors_origins: tuple[str, ...] = setting(
        Origins(validate=validate.Length(1)),
        default=("*",),
        text="origins whose pages may read the answers: `*`, or a comma-separated list",
    )
    trusted_proxies: tuple[Network, ...] = setting(
        Networks(),
        default=(),
        text="networks (CIDRs) of the load balancers whose `X-Forwarded-For` is believed",
    )
    authentication: str = setting(
        fields.String(
            validate=validate.OneOf(
                ("none",), error="only none is possible, required is not available in this version"
            )
        ),
        default="none",
        text="`none`: whoever reaches the port can read every bucket name and every plain parameter",
    )

    def together(self) -> list[str]:
        """A pool smaller than the threads would make them open and close connections all the time."""
        if self.pool_size < self.gunicorn_threads:
            return [
                f"POOL_SIZE: at least GUNICORN_THREADS ({self.gunicorn_threads}) needed, got {self.pool_size}"
            ]
        return []
