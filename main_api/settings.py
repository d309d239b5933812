"""The gateway's settings."""

import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from marshmallow import fields, validate

from chassis.client_address import Network
from chassis.setting_fields import HttpAddress, HttpAddresses
from chassis.settings import ServiceSettings, setting
from main_api.setting_fields import Networks, Origins, RedisUrl, Registered, Servers, ServiceAddress

# Loopback, the private ranges, carrier-grade NAT (some clusters' pods), and IPv6's unique local addresses.
_INSIDE = (
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
)


def _seconds(least: float, most: float) -> fields.Float:
    return fields.Float(validate=validate.Range(least, most))


def _count(least: int, most: int) -> fields.Integer:
    return fields.Integer(validate=validate.Range(least, most))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServiceSettings):
    """What the gateway reads from its environment."""

    SERVICE: ClassVar[str] = "main-api"
    PROBES: ClassVar[tuple[str, ...]] = ("/api/health", "/api/health/serving")
    UNAVAILABLE: ClassVar[tuple[str, ...]] = ("GATEWAY_CONFIG",)

    operations_port: int | None = setting(
        _count(1, 65535),
        default=None,
        text="port for `/metrics` and the operations endpoints alone, which are then 404 on `PORT` (default: "
        "they are on `PORT`)",
    )
    auxiliary_service_url: tuple[str, ...] | Registered = setting(  # noqa: RUF009 - both are frozen
        ServiceAddress(),
        default=("http://localhost:3001",),
        text="address of the auxiliary service; several, comma-separated, are several instances, "
        "each with `;weight=2` if it is to get more than others; or a registry: `dns://name:port`, "
        "`srv://name`, `consul://service` or `etcd://prefix`",
    )
    upstream_networks: tuple[Network, ...] = setting(
        Networks(),
        default=tuple(map(ipaddress.ip_network, _INSIDE)),
        text="networks (CIDRs) whose addresses are asked when a registry names them",
    )
    consul_http_addr: str = setting(
        HttpAddress(), default="http://127.0.0.1:8500", text="Consul's HTTP API, for `consul://`"
    )
    consul_http_token: str | None = setting(
        fields.String(validate=validate.Regexp(r"^[!-~]{1,512}\Z", error="printable characters, no space")),
        default=None,
        text="Consul's ACL token",
        secret=True,
    )
    etcd_endpoints: tuple[str, ...] = setting(
        HttpAddresses(validate=validate.Length(1, 16)),
        default=("http://127.0.0.1:2379",),
        text="etcd's endpoints, comma-separated, for `etcd://`; the next is asked when one fails",
    )
    dns_servers: tuple[tuple[str, int], ...] = setting(
        Servers(),
        default=(),
        text="DNS servers for `dns://` and `srv://`, such as `127.0.0.1:8600` (default: those of the system)",
    )
    request_timeout: float = setting(
        _seconds(0.1, 300),
        default=10.0,
        text="seconds for a whole request, all attempts and waits; a client may ask for less",
    )
    attempt_timeout: float = setting(
        _seconds(0.05, 300),
        default=3.0,
        text="seconds for one attempt of a single read; lists have the whole request's",
    )
    connect_timeout: float = setting(
        _seconds(0.01, 60), default=0.5, text="seconds for a connection to an instance"
    )
    pool_size: int = setting(
        _count(1, 1024),
        default=50,
        text="connections kept per instance; at least `GUNICORN_THREADS`",
    )
    upstream_max_body: int = setting(
        _count(1024, 1024**3),
        default=16 * 1024**2,
        text="bytes that one answer of the auxiliary may have",
    )
    cache_bytes: int = setting(
        _count(0, 64 * 1024**3),
        default=64 * 1024**2,
        text="bytes of answers that a worker keeps; `0`: no cache, and nothing stands in for failures",
    )
    redis_url: str | None = setting(
        RedisUrl(),
        default=None,
        text="Redis that all processes of the same `APP_ENV` keep answers in, `redis://`, `rediss://` or "
        "`unix://`, with its password; without it, each worker keeps its own",
        secret=True,
    )
    bulkhead: int | None = setting(
        _count(1, 256),
        default=None,
        text="calls to the auxiliary at once per worker process (default: all of `GUNICORN_THREADS`)",
    )
    retry_attempts: int = setting(
        _count(1, 5), default=3, text="attempts of an idempotent request, the first one included"
    )
    retry_backoff: float = setting(
        _seconds(0, 10),
        default=0.025,
        text="seconds that the first retry waits at most; a random part of it, doubling with each",
    )
    retry_backoff_max: float = setting(
        _seconds(0, 60), default=0.25, text="seconds that any retry waits at most"
    )
    retry_tokens: float = setting(
        _seconds(1, 100_000),
        default=50.0,
        text="size of the retry throttle's bucket; a retry takes 1, below half there is none",
    )
    retry_tokens_per_success: float = setting(
        _seconds(0, 1), default=0.1, text="what a success returns to the retry throttle's bucket"
    )
    balance: str = setting(
        fields.String(
            validate=validate.OneOf(
                ("round_robin", "least_connections", "weighted", "random", "consistent_hash")
            )
        ),
        default="round_robin",
        text="which instance is next: `round_robin`, `least_connections`, `weighted`, `random` or "
        "`consistent_hash`",
    )
    balance_hash_by: str = setting(
        fields.String(
            validate=validate.Regexp(
                r"^(path|caller|header:[A-Za-z0-9-]{1,64})\Z", error="path, caller or header:<name> needed"
            )
        ),
        default="path",
        text="what `consistent_hash` goes by: `path` (with its query), `caller` or `header:<name>`",
    )
    breaker_failure_rate: float = setting(
        _seconds(0.01, 1), default=0.5, text="share of failures at which an instance's breaker opens"
    )
    breaker_minimum_calls: int = setting(
        _count(1, 100_000), default=20, text="calls within `BREAKER_WINDOW` before that share counts"
    )
    breaker_window: float = setting(
        _seconds(1, 600), default=10.0, text="seconds over which that share is taken"
    )
    breaker_failures_in_a_row: int = setting(
        _count(1, 100_000), default=5, text="failures in a row at which a breaker opens, whatever the share"
    )
    breaker_open_seconds: float = setting(
        _seconds(0.1, 3600),
        default=5.0,
        text="seconds that a breaker stays open, a tenth less at random, doubling while it opens again",
    )
    breaker_open_seconds_max: float = setting(
        _seconds(0.1, 3600), default=60.0, text="seconds that a breaker stays open at most"
    )
    breaker_half_open_calls: int = setting(
        _count(1, 100), default=3, text="calls that a half-open breaker lets through; all must succeed"
    )
    breaker_healthy_seconds: float = setting(
        _seconds(1, 86_400),
        default=60.0,
        text="seconds closed after which a breaker opens for `BREAKER_OPEN_SECONDS` again",
    )
    health_check_path: str = setting(
        fields.String(
            validate=validate.Regexp(r"^/[!-~]{0,200}\Z", error="must begin with /, without spaces")
        ),
        default="/health",
        text="what active health checks ask of each instance; a 2xx is well",
    )
    health_check_interval: float = setting(
        _seconds(0, 3600), default=5.0, text="seconds between two checks of an instance; `0`: no checks"
    )
    health_check_ejected_interval: float = setting(
        _seconds(0.1, 3600),
        default=1.0,
        text="seconds between two checks of an instance whose breaker is open; one that could not be reached "
        "and answers again is let back at once",
    )
    health_check_timeout: float = setting(
        _seconds(0.01, 60), default=1.0, text="seconds that a check waits for its answer"
    )
    health_check_unhealthy_after: int = setting(
        _count(1, 100), default=3, text="failed checks in a row that take an instance out"
    )
    health_check_healthy_after: int = setting(
        _count(1, 100), default=2, text="good checks in a row that bring it back"
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
        """Name pairs that contradict each other.

        A pool smaller than the threads would make them open and close connections all the time.
        """
        least = (
            ("pool_size", "gunicorn_threads"),
            ("retry_backoff_max", "retry_backoff"),
            ("breaker_open_seconds_max", "breaker_open_seconds"),
        )
        same = self.operations_port == self.port
        return [
            *([f"OPERATIONS_PORT: another port than PORT ({self.port}) needed"] if same else []),
            *(
                f"{larger.upper()}: at least {smaller.upper()} ({getattr(self, smaller):g}) needed, "
                f"got {getattr(self, larger):g}"
                for larger, smaller in least
                if getattr(self, larger) < getattr(self, smaller)
            ),
        ]

    @property
    def ports(self) -> tuple[int, ...]:
        """The public port and, where it is set, that of the operations endpoints."""
        return (self.port,) if self.operations_port is None else (self.port, self.operations_port)
