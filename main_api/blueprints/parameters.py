"""SSM parameters."""

from main_api.blueprints import AUXILIARY
from main_api.policies.cache import CacheSettings
from main_api.routing.route import Access, Documentation, Route, ToService
from main_api.schemas.answers import ParameterEnvelope, ParametersEnvelope
from main_api.schemas.query import ParameterQuery, ParametersQuery
from main_api.scopes import PARAMETERS_DECRYPT, PARAMETERS_READ

DECRYPTION = {("decrypt", "true"): PARAMETERS_DECRYPT}
# A plain value is in no store, whatever its answer says of keeping it.
CACHE = CacheSettings(bypass=frozenset(DECRYPTION))

ROUTES = (
    Route(
        name="parameters-list",
        rule="/api/parameters/list",
        query=ParametersQuery,
        access=Access(PARAMETERS_READ),
        limited=True,
        end=ToService(AUXILIARY, "/aws/parameters/list", DECRYPTION, whole_list=True, cache=CACHE),
        documentation=Documentation(
            "List the project's SSM parameters",
            ParametersEnvelope,
            "Every parameter below the project, all pages read (AWS gives ten a page); with `limit` "
            "page by page. SecureStrings are redacted.",
            errors=(304, 400, 403, 502, 503, 504),
            tag="AWS",
        ),
    ),
    Route(
        name="parameters-get",
        rule="/api/parameters",
        query=ParameterQuery,
        access=Access(PARAMETERS_READ),
        limited=True,
        end=ToService(AUXILIARY, "/aws/parameters", DECRYPTION, cache=CACHE),
        documentation=Documentation(
            "Get one SSM parameter",
            ParameterEnvelope,
            "A SecureString is redacted.",
            errors=(304, 400, 403, 404, 502, 503, 504),
            tag="AWS",
        ),
    ),
)
