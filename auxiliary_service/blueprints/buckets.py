"""``GET /aws/s3/buckets``."""

from flask import Blueprint, Response, request

from auxiliary_service.aws.buckets import BucketStore
from auxiliary_service.aws.shared_reads import SharedReads
from auxiliary_service.blueprints import answers
from auxiliary_service.blueprints.callers import current, require
from auxiliary_service.blueprints.waits import read_in_time
from auxiliary_service.schemas.buckets import BucketSchema, BucketsQuery, BucketsQuerySchema
from auxiliary_service.schemas.next_token import Listing, NextTokens
from auxiliary_service.schemas.query import load
from auxiliary_service.scopes import BUCKETS_READ


def blueprint(store: BucketStore, reads: SharedReads, tokens: NextTokens, max_age: int) -> Blueprint:
    """Make the blueprint; answers may be reused for ``max_age`` seconds."""
    routes = Blueprint("buckets", __name__)
    query_schema = BucketsQuerySchema()
    item_schema = BucketSchema()
    cached = answers.cache_control(max_age)

    @routes.get("/aws/s3/buckets")
    def list_buckets() -> Response:
        """List every bucket of the account, or with ``limit`` some and a ``nextToken``.

        403 ``forbidden`` without ``buckets:read``, 400 ``invalid_request``, 504 ``aws_timeout`` when the
        whole list does not fit into the caller's time, and the other ``aws_*`` as AWS fails.
        """
        require(BUCKETS_READ)
        query: BucketsQuery = load(query_schema, request.args)
        listed = Listing("buckets", query.prefix, current().scopes)
        start = tokens.open(query.next_token, listed)
        page = read_in_time(
            reads,
            "ListBuckets",
            (query.prefix, start, query.limit),
            lambda patience: store.list_buckets(query.prefix, start, query.limit, patience),
            whole_list=query.limit is None,
        )
        items = item_schema.dump(page.items, many=True)
        following = tokens.seal(page.next_token, listed)
        return answers.listing(items, following, cached, (query.limit, query.next_token))

    return routes
