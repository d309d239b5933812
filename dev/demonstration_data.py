"""The demonstration data of `make run`: three buckets, thirty parameters, two that must stay unseen.

Thirty, because AWS gives parameters ten a page: paging is real from the first request on. Among them
are all three types, a path five levels deep and values beyond ASCII. No value is a real secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import BucketLocationConstraintType
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_ssm.literals import ParameterTypeType


class Parameter(NamedTuple):
    """A parameter to be made; ``name`` is relative to its project."""

    name: str
    value: str
    type: ParameterTypeType = "String"


BUCKETS = ("demonstration-backups", "demonstration-invoices", "demonstration-photos")

PARAMETERS = (
    Parameter("cache/host", "cache.internal.example"),
    Parameter("cache/password", "demonstration-cache-password", "SecureString"),
    Parameter("cache/port", "6379"),
    Parameter("cache/ttl-seconds", "300"),
    Parameter("database/host", "db.internal.example"),
    Parameter("database/name", "orders"),
    Parameter("database/password", "demonstration-database-password", "SecureString"),
    Parameter("database/pool/size", "20"),
    Parameter("database/pool/timeout-seconds", "5"),
    Parameter("database/port", "5432"),
    Parameter("database/replicas", "db-1.internal.example,db-2.internal.example", "StringList"),
    Parameter("database/user", "orders-service"),
    Parameter("features/beta-countries", "AT,CH,DE", "StringList"),
    Parameter("features/dark-mode", "true"),
    Parameter("features/new-checkout", "false"),
    Parameter("logging/level", "info"),
    Parameter("mail/from", "shop@example.org"),
    Parameter("mail/host", "smtp.internal.example"),
    Parameter("mail/password", "demonstration-mail-password", "SecureString"),
    Parameter("mail/port", "587"),
    Parameter("mail/signature", "Grüße aus Zürich 🏔"),
    Parameter("payments/provider/europe/zurich/api-key", "demonstration-api-key", "SecureString"),
    Parameter("payments/provider/europe/zurich/endpoint", "https://payments.example/zurich"),
    Parameter("payments/provider/europe/zurich/timeout-seconds", "10"),
    Parameter("payments/retries", "3"),
    Parameter("shop/currencies", "CHF,EUR,USD", "StringList"),
    Parameter("shop/name", "Käse & Co."),
    Parameter("shop/opening-hours", '{"monday": "09:00-18:00", "sunday": null}'),
    Parameter("shop/tagline", "山の上で一番おいしいチーズ"),
    Parameter("signing-key", "demonstration-signing-key", "SecureString"),
)

# The services look below /<PROJECT_NAME>/ only. These two show it: nobody sees them through the gateway.
OTHER_PROJECT = "otherproject"
OTHER_PARAMETERS = (
    Parameter("database/host", "db.other.example"),
    Parameter("secret", "demonstration-secret-of-another-project", "SecureString"),
)


def load(s3: S3Client, ssm: SSMClient, project: str) -> None:
    """Put the buckets, ``project``'s parameters and the other project's into an empty account."""
    for bucket in BUCKETS:
        _create_bucket(s3, bucket)
    for owner, parameters in ((project, PARAMETERS), (OTHER_PROJECT, OTHER_PARAMETERS)):
        for name, value, kind in parameters:
            ssm.put_parameter(Name=f"/{owner}/{name}", Value=value, Type=kind)


def _create_bucket(s3: S3Client, name: str) -> None:
    region = s3.meta.region_name
    if region == "us-east-1":  # S3 refuses its oldest region as a constraint, and any other without one
        s3.create_bucket(Bucket=name)
        return
    constraint: BucketLocationConstraintType = region  # type: ignore[assignment]  # any region is
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": constraint})
