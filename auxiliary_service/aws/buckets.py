"""S3's buckets."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from auxiliary_service.aws.calls import AwsCalls
from auxiliary_service.aws.clients import S3
from auxiliary_service.aws.pages import Page, Patience, read_pages

# S3's own most. Unpaged requests of accounts with a quota above it are refused.
PAGE_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as S3 lists it."""

    name: str
    creation_date: datetime


class BucketStore:
    """Lists the buckets of the account."""

    def __init__(self, client: S3, call: AwsCalls) -> None:
        self._client = client
        self._call = call

    def list_buckets(
        self, prefix: str | None, start: str | None, limit: int | None, patience: Patience
    ) -> Page[Bucket]:
        """List buckets whose name begins with ``prefix``; see :func:`read_pages` for the rest."""
        size = limit or PAGE_MOST
        return read_pages(
            lambda token: self._page(prefix, token, size), patience, start=start, size=size, limit=limit
        )

    def _page(self, prefix: str | None, token: str | None, size: int) -> Page[Bucket]:
        arguments: dict[str, Any] = {"MaxBuckets": size}
        if prefix is not None:
            arguments["Prefix"] = prefix
        if token is not None:
            arguments["ContinuationToken"] = token
        answer = self._call("ListBuckets", self._client.list_buckets, **arguments)
        buckets = (Bucket(each["Name"], each["CreationDate"]) for each in answer.get("Buckets", ()))
        return Page(tuple(buckets), answer.get("ContinuationToken") or None)
