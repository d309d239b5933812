"""``GET /aws/parameters/list`` and ``GET /aws/parameters``."""

from collections.abc import Iterable

from flask import Blueprint, Response, request

from auxiliary_service import scopes
from auxiliary_service.aws.pages import Page
from auxiliary_service.aws.parameters import Parameter, ParameterStore
from auxiliary_service.aws.shared_reads import SharedReads
from auxiliary_service.blueprints import answers
from auxiliary_service.blueprints.callers import current, readable_paths, require_decryption
from auxiliary_service.blueprints.waits import read_in_time
from auxiliary_service.schemas.next_token import Listing, NextTokens
from auxiliary_service.schemas.parameters import (
    ParameterItem,
    ParameterQuery,
    ParameterSchema,
    ParametersQuery,
    parameter_query,
    parameters_query,
)
from auxiliary_service.schemas.query import load
from auxiliary_service.settings import Settings
from chassis.errors import Forbidden

_OUTSIDE = f"takes the scope {scopes.PARAMETERS_READ}, whole or for a path that holds it"


class ParameterViews:
    """The two views. They are 403 ``forbidden`` for what the caller's scopes do not let him read.

    With ``decrypt=true`` they are too, unless setting and scope allow it.
    """

    def __init__(
        self, store: ParameterStore, reads: SharedReads, tokens: NextTokens, settings: Settings
    ) -> None:
        self._store = store
        self._reads = reads
        self._tokens = tokens
        self._allow_decryption = settings.allow_decryption
        self._cached = answers.cache_control(settings.parameters_max_age)
        self._list_query = parameters_query(settings.project_name)
        self._query = parameter_query(settings.project_name)
        self._item = ParameterItem()
        self._single = ParameterSchema()

    def list_parameters(self) -> Response:
        """List every parameter of the project or below ``prefix``, or with ``limit`` some of them.

        Of a caller whose scope is narrowed to paths, only what is below these is asked for and given.
        400 ``invalid_request``, 504 ``aws_timeout`` when the whole list does not fit into the
        caller's time, and the other ``aws_*`` as AWS fails.
        """
        readable = readable_paths()
        query: ParametersQuery = load(self._list_query, request.args)
        self._check(query.decrypt)
        paths = scopes.narrowed(query.prefix, readable)
        if not paths:
            raise Forbidden(f"This prefix {_OUTSIDE}")
        listed = Listing("parameters", query.prefix, current().scopes, query.decrypt)
        page = self._read_list(query, paths, self._tokens.open(query.next_token, listed))
        return answers.listing(
            self._item.dump(page.items, many=True),
            self._tokens.seal(page.next_token, listed),
            self._cache_control(page.items),
            (query.limit, query.next_token, query.decrypt),
        )

    def get_parameter(self) -> Response:
        """Give one parameter by ``name``; 404 ``parameter_not_found``, 400 ``invalid_request``, ``aws_*``."""
        readable = readable_paths()
        query: ParameterQuery = load(self._query, request.args)
        self._check(query.decrypt)
        if not scopes.may_read(query.name, readable):
            raise Forbidden(f"This name {_OUTSIDE}")
        parameter = read_in_time(
            self._reads,
            "GetParameter",
            (query.name, query.decrypt),
            lambda _: self._store.get_parameter(query.name, decrypt=query.decrypt),
        )
        return answers.single(
            self._single.dump(parameter), self._cache_control((parameter,)), (query.decrypt,)
        )

    def _read_list(
        self, query: ParametersQuery, paths: tuple[str, ...], start: str | None
    ) -> Page[Parameter]:
        return read_in_time(
            self._reads,
            "GetParametersByPath",
            (paths, start, query.limit, query.decrypt),
            lambda patience: self._store.list_parameters(
                paths, start, query.limit, patience, decrypt=query.decrypt
            ),
            whole_list=query.limit is None,
        )

    def _check(self, decrypt: bool) -> None:
        if decrypt:
            require_decryption(self._allow_decryption)

    def _cache_control(self, parameters: Iterable[Parameter]) -> str:
        return answers.NO_STORE if any(each.secret for each in parameters) else self._cached


def blueprint(store: ParameterStore, reads: SharedReads, tokens: NextTokens, settings: Settings) -> Blueprint:
    """Make the blueprint of both views."""
    views = ParameterViews(store, reads, tokens, settings)
    routes = Blueprint("parameters", __name__)
    routes.add_url_rule("/aws/parameters/list", view_func=views.list_parameters)
    routes.add_url_rule("/aws/parameters", view_func=views.get_parameter)
    return routes
