"""Settings of the auxiliary service, beside those that both services have."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from marshmallow import ValidationError, fields, validate

from chassis.setting_fields import HttpAddress, HttpAddresses
from chassis.settings import ServiceSettings, setting

MAX_AGE_MOST = 31_536_000


def _max_age(what: str) -> int:
    field = fields.Integer(validate=validate.Range(0, MAX_AGE_MOST))
    text = f"seconds that an answer with {what} may be reused without asking again (`Cache-Control: max-age`)"
    seconds: int = setting(field, default=0, text=text)
    return seconds


def _of_one_host(text: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValidationError("must be an IP address") from None
    if address.is_unspecified or address.is_multicast or "%" in text:
        raise ValidationError("must be the address of one host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServiceSettings):
    """What the environment says; AWS credentials are not among it, boto3 finds those itself."""

    SERVICE: ClassVar[str] = "auxiliary-service"
    PROBES: ClassVar[tuple[str, ...]] = ("/health",)

    port: int = setting(
        fields.Integer(validate=validate.Range(1, 65535)), default=3001, text="port to listen on"
    )
    aws_region: str = setting(
        fields.String(
            validate=validate.Regexp(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z", error="a region's name")
        ),
        default="us-west-2",
        text="AWS region of the parameters and of the endpoint that lists the buckets",
    )
    aws_endpoint_url: str | None = setting(
        fields.Url(schemes={"http", "https"}, require_tld=False),
        default=None,
        text="endpoint of every AWS service instead of Amazon's own, such as an emulated AWS",
    )
    project_name: str = setting(
        fields.String(
            validate=validate.Regexp(
                r"^(?!\.{1,2}\Z)[a-zA-Z0-9_.-]{1,128}\Z", error="one path segment of a-z A-Z 0-9 _ . -"
            )
        ),
        default="myproject",
        text="only parameters below `/<PROJECT_NAME>/` are ever read",
    )
    buckets_max_age: int = _max_age("buckets")
    parameters_max_age: int = _max_age("parameters")
    allow_decryption: bool = setting(
        fields.Boolean(),
        default=False,
        text="`true` lets `decrypt=true` return plain SecureStrings to callers with the scope "
        "`parameters:decrypt`; needs `INTERNAL_TOKEN`",
    )

    consul_http_addr: str | None = setting(
        HttpAddress(),
        default=None,
        text="Consul agent to register with, `http://host:port`, `https://host:port` or `host:port`",
        secret=True,  # only its faults: what is wrong in it may be a password
    )
    consul_http_token: str | None = setting(
        fields.String(
            validate=validate.Regexp(r"^[!-~]{1,512}\Z", error="1 to 512 printable characters, no space")
        ),
        default=None,
        text="token for Consul, with `service:write` and `service:read` for `auxiliary-service`",
        secret=True,
    )
    etcd_endpoints: tuple[str, ...] = setting(
        HttpAddresses(validate=validate.Length(max=16)),
        default=(),
        text="etcd (3.4 or newer) to register with: its endpoints, `http://host:port`, comma-separated",
        secret=True,
    )
    etcd_prefix: str = setting(
        fields.String(
            validate=validate.Regexp(
                r"^(?=.{1,256}\Z)[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*\Z",
                error="names of a-z A-Z 0-9 . _ - with / between them",
            )
        ),
        default="services/auxiliary-service",
        text="what this instance's key in etcd begins with, before `/<id>`",
    )
    service_address: str | None = setting(
        fields.String(validate=_of_one_host),
        default=None,
        text="IP address to announce (default: `HOST`, or if that means all of them, the one from which this "
        "machine reaches the registry)",
    )
    service_weight: int = setting(
        fields.Integer(validate=validate.Range(1, 1000)),
        default=1,
        text="share of the calls to announce, beside the other instances' weights",
    )

    @property
    def registers(self) -> bool:
        """Whether there is a registry to register with."""
        return bool(self.consul_http_addr or self.etcd_endpoints)

    def registration_path(self, kind: str, lock: str) -> Path:
        """The file by which this pod's processes agree who registers with one ``kind`` of registry."""
        return self._runtime(f"{kind}-{lock}")

    def together(self) -> list[str]:
        """Name what only several settings make wrong."""
        # Not super(): slots make the class anew, and a bare super() would look for the old one.
        faults = ServiceSettings.together(self)
        if self.allow_decryption and self.internal_token is None:
            faults.append(
                "ALLOW_DECRYPTION: without INTERNAL_TOKEN no caller's scopes are believed, so nothing would "
                "ever be decrypted; set INTERNAL_TOKEN too, or leave this false"
            )
        return faults
