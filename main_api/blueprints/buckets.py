"""S3 buckets."""

from main_api.blueprints import AUXILIARY
from main_api.routing.route import Access, Documentation, Route, ToService
from main_api.schemas.answers import BucketsEnvelope
from main_api.schemas.query import BucketsQuery
from main_api.scopes import BUCKETS_READ

ROUTES = (
    Route(
        name="buckets-list",
        rule="/api/s3/buckets",
        query=BucketsQuery,
        access=Access(BUCKETS_READ),
        limited=True,
        end=ToService(AUXILIARY, "/aws/s3/buckets", whole_list=True),
        documentation=Documentation(
            "List the account's S3 buckets",
            BucketsEnvelope,
            "Every bucket, all pages read; with `limit` page by page.",
            errors=(304, 400, 502, 503, 504),
            tag="AWS",
        ),
    ),
)
