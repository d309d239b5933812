"""What a route declares; :mod:`main_api.routing.pipeline` builds what it does."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from marshmallow import Schema

from main_api.exchange import Proceed
from main_api.policies.cache import CacheSettings


@dataclass(frozen=True, slots=True)
class Documentation:
    """What ``/openapi.json`` says of a route beside its path and query.

    ``answer`` is the schema of the 200's body, or its media type where that is not JSON; ``errors``
    are the statuses a caller may meet besides those that every route has. ``variables`` says what stands in
    the place of each ``<variable>`` of the rule; ``unwell`` is the schema of a 503 that is no error body.
    """

    summary: str
    answer: type[Schema] | str
    description: str = ""
    errors: tuple[int, ...] = ()
    tag: str = "gateway"
    variables: Mapping[str, str] = field(default_factory=dict)
    unwell: type[Schema] | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """Who may: whoever shows a good credential or, with a ``scope``, one that holds it."""

    scope: str | None = None


@dataclass(frozen=True, slots=True)
class ToService:
    """The route ends in a service: the full chain, and the service's body in our envelope.

    ``path`` is where the service serves it. ``scopes`` maps a query parameter with its value to the
    scope it takes. A ``whole_list`` may take the request's whole time in one attempt, for the service
    reads it page by page; a single read has the time of one attempt. ``cache`` says how long answers may
    be given again, None not at all.
    """

    service: str
    path: str
    scopes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    whole_list: bool = False
    cache: CacheSettings | None = field(default_factory=CacheSettings)


@dataclass(frozen=True, slots=True)
class ToFunction:
    """The route ends in a function of this process."""

    function: Proceed


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One path of the gateway.

    ``rule`` is Flask's, with ``<variable>`` for a segment that may be any; a function finds it in the call's
    path. ``query`` is the schema of the query string; without one, the query is not looked at. ``access``
    says who may; None is everybody. A route that is not ``limited`` has no rate limit. ``body`` is the schema
    of the JSON that it takes; one without takes no body.
    """

    name: str
    rule: str
    end: ToService | ToFunction
    documentation: Documentation
    query: type[Schema] | None = None
    methods: tuple[str, ...] = ("GET",)
    access: Access | None = None
    limited: bool = False
    body: type[Schema] | None = None
