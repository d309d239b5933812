"""The pages for people, and the document that describes the API."""

from collections.abc import Callable
from functools import cache

from main_api.console.files import PAGE_POLICY, File, ours, swagger_ui
from main_api.exchange import Call, Reply
from main_api.routing.route import Documentation, Route, ToFunction

SWAGGER_UI = ("index.css", "swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")


def _page(name: str, rule: str, file: File, summary: str) -> Route:
    media_type = "text/html" if file.path.name.endswith(".html") else "*/*"
    return Route(
        name=name,
        rule=rule,
        end=ToFunction(file),
        documentation=Documentation(summary, media_type, errors=(304,), tag="console"),
    )


PAGES = (
    _page("page", "/", ours("page.html", PAGE_POLICY), "A page that shows whether the pair is ready"),
    _page("docs", "/docs", ours("docs.html", PAGE_POLICY), "This documentation, to read and to try"),
)
ASSETS = (
    *(
        _page(f"console-{name}", f"/console/{name}", ours(name), "Part of a page")
        for name in ("page.css", "page.js", "docs.js")
    ),
    *(_page(f"docs-{name}", f"/docs/{name}", swagger_ui(name), "Part of a page") for name in SWAGGER_UI),
)


def document_route(make: Callable[[], bytes]) -> Route:
    """Give the route of ``/openapi.json``, whose document is made when it is first asked for: few are."""
    made = cache(make)

    def serve(_: Call) -> Reply:
        return Reply(200, (("Content-Type", "application/json"), ("Cache-Control", "no-cache")), made())

    return Route(
        name="openapi",
        rule="/openapi.json",
        end=ToFunction(serve),
        documentation=Documentation("The OpenAPI 3.1 document", "application/json", tag="console"),
    )
