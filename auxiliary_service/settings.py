"""Settings of the auxiliary service, beside those that both services have."""

from dataclasses import dataclass
from typing import ClassVar

from marshmallow import fields, validate

from chassis.settings import ServiceSettings, setting

MAX_AGE_MOST = 31_536_000


def _max_age(what: str) -> int:
    field = fields.Integer(validate=validate.Range(0, MAX_AGE_MOST))
    text = f"seconds that an answer with {what} may be reused without asking again (`Cache-Control: max-age`)"
    seconds: int = setting(field, default=0, text=text)
    return seconds


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
