"""The gateway's settings."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from marshmallow import fields, validate

from chassis.client_address import Network
from chassis.setting_fields import HttpAddress, HttpAddresses
from chassis.settings import ServiceSettings, setting
from main_api.exchange import Window
from main_api.issuer_fields import Issuer, Issuers
from main_api.setting_fields import (
    CommaSeparatedText,
    Limit,
    Networks,
    Origins,
    RedisUrl,
    Registered,
    Servers,
    ServiceAddress,
)

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


def _secret() -> fields.String:
    return fields.String(
        validate=validate.Regexp(r"^[!-~]{32,1024}\Z", error="32 to 1024 printable characters, no space")
    )


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
        fields.String(validate=validate.OneOf(("none", "required"))),
        default="none",
        text="`none`: whoever reaches the port can read every bucket name and every plain parameter; "
        "`required`: only who shows a token or an API key",
    )
    accounts_file: str | None = setting(
        fields.String(validate=validate.Length(1, 4096)),
        default=None,
        text="YAML file of users, roles, API keys and plans; read again within 5 s of a change",
    )
    jwt_secret: str | None = setting(
        _secret(),
        default=None,
        text="secret that signs the tokens of `POST /auth/login` (HS256), 32 bytes at least",
        secret=True,
    )
    jwt_previous_secrets: tuple[str, ...] = setting(
        CommaSeparatedText(validate=validate.Length(1, 8)),
        default=(),
        text="earlier `JWT_SECRET`s, comma-separated, whose tokens are still good",
        secret=True,
    )
    jwt_key_file: str | None = setting(
        fields.String(validate=validate.Length(1, 4096)),
        default=None,
        text="PEM file of the private key that signs them instead: RSA (RS256) or P-256 (ES256)",
    )
    jwt_previous_key_files: tuple[str, ...] = setting(
        CommaSeparatedText(validate=validate.Length(1, 8)),
        default=(),
        text="PEM files of earlier keys, comma-separated, private or public, whose tokens are still good",
    )
    jwt_issuer: str = setting(
        fields.String(validate=validate.Regexp(r"^[!-~]{1,256}\Z", error="printable characters, no space")),
        default="main-api",
        text="`iss` of those tokens",
    )
    jwt_audience: str = setting(
        fields.String(validate=validate.Regexp(r"^[!-~]{1,256}\Z", error="printable characters, no space")),
        default="main-api",
        text="`aud` of those tokens",
    )
    jwt_lifetime: int = setting(_count(60, 86_400), default=3600, text="seconds that they are good for")
    jwt_issuers: tuple[Issuer, ...] = setting(
        Issuers(),
        default=(),
        text="issuers whose tokens are good here too, as JSON: see the chapter on accounts",
        # Its faults name the place; the whole of it is long.
        secret=True,
    )
    revocation_unavailable: str | None = setting(
        fields.String(validate=validate.OneOf(("allow", "deny"))),
        default=None,
        text="while Redis cannot be asked what was revoked: `allow` or `deny` everything (default: reads are "
        "allowed by the last known list, decryption is denied)",
    )
    rate_limit: Window = setting(  # noqa: RUF009 - frozen
        Limit(), default=Window(100, 900), text="requests of one caller to one route of `/api/*`"
    )
    login_rate_limit: Window = setting(  # noqa: RUF009 - frozen
        Limit(),
        default=Window(5, 900),
        text="logins from one address, and logins to one account; always in force",
    )
    rate_limit_enabled: bool = setting(
        fields.Boolean(),
        default=True,
        text="`false`: no rate limits and no plans; that of logins stays",
    )
    rate_limit_replicas: int = setting(
        _count(1, 10_000),
        default=1,
        text="gateways of which each takes its part of a limit while Redis is away",
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
            *self._access(),
            *([f"OPERATIONS_PORT: another port than PORT ({self.port}) needed"] if same else []),
            *(
                f"{larger.upper()}: at least {smaller.upper()} ({getattr(self, smaller):g}) needed, "
                f"got {getattr(self, larger):g}"
                for larger, smaller in least
                if getattr(self, larger) < getattr(self, smaller)
            ),
        ]

    def _access(self) -> Iterator[str]:
        required = self.authentication == "required"
        if self.web_concurrency > 1 and self.redis_url is None and (required or self.rate_limit_enabled):
            kept = "what was revoked, and rate limits," if required else "rate limits"
            yield (
                f"WEB_CONCURRENCY: {kept} hold for all workers only with REDIS_URL; set it, or one worker"
                + ("" if required else ", or RATE_LIMIT_ENABLED=false")
            )
        if self.jwt_secret and self.jwt_key_file:
            yield "JWT_KEY_FILE: not together with JWT_SECRET, for one of them signs"
        if self.jwt_previous_secrets and not self.jwt_secret:
            yield "JWT_PREVIOUS_SECRETS: JWT_SECRET needed, which signs now"
        if self.jwt_previous_key_files and not self.jwt_key_file:
            yield "JWT_PREVIOUS_KEY_FILES: JWT_KEY_FILE needed, which signs now"
        if not required:
            return
        if self.internal_token is None:
            yield "INTERNAL_TOKEN: needed with AUTHENTICATION=required, or the auxiliary believes no scopes"
        if self.accounts_file is None and not self.jwt_issuers:
            yield "ACCOUNTS_FILE: it or JWT_ISSUERS needed with AUTHENTICATION=required, or nobody gets in"

    @property
    def ports(self) -> tuple[int, ...]:
        """The public port and, where it is set, that of the operations endpoints."""
        return (self.port,) if self.operations_port is None else (self.port, self.operations_port)
