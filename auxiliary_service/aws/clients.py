"""The boto3 clients: one per AWS service and process, made once, after the fork, shared by all threads."""

import logging
from dataclasses import dataclass
from typing import Any, Protocol

from boto3.session import Session
from botocore.config import Config

from auxiliary_service.aws.errors import CREDENTIALS_HINT

CONNECT_SECONDS = 1
READ_SECONDS = 3
# botocore's retry is the only one: the gateway does not try an `aws_*` failure again.
ATTEMPTS = 2

log = logging.getLogger(__name__)


class S3(Protocol):
    """What is used of boto3's S3 client."""

    def list_buckets(self, **arguments: Any) -> Any:
        """Call ``ListBuckets``."""


class SSM(Protocol):
    """What is used of boto3's SSM client."""

    def get_parameter(self, **arguments: Any) -> Any:
        """Call ``GetParameter``."""

    def get_parameters_by_path(self, **arguments: Any) -> Any:
        """Call ``GetParametersByPath``."""


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients of this process. boto3's clients are thread-safe (its sessions are not)."""

    s3: S3
    ssm: SSM


def connect(region: str, endpoint_url: str | None, threads: int) -> Clients:
    """Make the clients, with a pooled connection for each of ``threads``; asks AWS for nothing.

    Call it once per process and never before a fork: a session is slow to make, and sockets must
    not be shared between processes. Credentials are looked for here, in boto3's own order; static
    ones are not looked for again.
    """
    # boto3 does not read AWS_REGION, hence `region_name`.
    session = Session(region_name=region)
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=threads,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
    )
    if session.get_credentials() is None:
        log.warning("no AWS credentials found; every call will fail: %s", CREDENTIALS_HINT)

    def client(service: Any) -> Any:
        return session.client(service, endpoint_url=endpoint_url, config=config)

    return Clients(s3=client("s3"), ssm=client("ssm"))
