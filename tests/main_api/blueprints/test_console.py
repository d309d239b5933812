"""The pages for people: they work offline, by their own origin's files alone, with nothing inline."""

import re
from html.parser import HTMLParser
from importlib.resources import files
from urllib.parse import urljoin, urlsplit

import pytest

from main_api.blueprints.console import ASSETS, PAGES
from tests.main_api.support import gateway

CLIENT, UPSTREAM = gateway()
PAGE_RULES = [route.rule for route in PAGES]
ASSET_RULES = [route.rule for route in ASSETS]
OURS = [path for path in files("main_api.console").iterdir() if path.name.endswith((".html", ".css", ".js"))]
TYPES = {"css": "text/css", "js": "text/javascript", "png": "image/png"}


class Page(HTMLParser):
    """What a page refers to, and what stands in it inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        for name, value in attrs:
            if (
                name == "style"
                or name.startswith("on")
                or (value or "").strip().lower().startswith("javascript:")
            ):
                self.inline.append(f"{tag} {name}")
            if name in ("src", "href", "action", "data", "poster", "srcset"):
                (self.links if tag == "a" else self.loaded).append(value or "")
        if tag in ("style", "base", "iframe", "object", "embed"):
            self.inline.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script" and data.strip():
            self.inline.append(data)


def policy(rule: str) -> dict[str, list[str]]:
    header = CLIENT.get(rule).headers["Content-Security-Policy"]
    return {words[0]: words[1:] for words in (part.split() for part in header.split(";"))}


@pytest.mark.parametrize("rule", PAGE_RULES)
def test_a_page_is_html(rule: str) -> None:
    answer = CLIENT.get(rule)

    assert answer.status_code == 200
    assert answer.content_type == "text/html; charset=utf-8"
    assert answer.text.lower().startswith("<!doctype html>")


def test_these_are_the_pages() -> None:
    assert PAGE_RULES == ["/", "/docs"]


@pytest.mark.parametrize("rule", PAGE_RULES)
def test_a_pages_policy_takes_nothing_inline_and_no_other_origin(rule: str) -> None:
    directives = policy(rule)

    assert directives["default-src"] == ["'none'"]
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == ["'self'"]
    assert directives["frame-ancestors"] == directives["base-uri"] == directives["form-action"] == ["'none'"]
    sources = {source for listed in directives.values() for source in listed}
    assert sources <= {"'none'", "'self'", "data:"}
    assert "data:" not in directives["script-src"]


@pytest.mark.parametrize("rule", PAGE_RULES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_page_that_is_not_modified_keeps_its_policy(rule: str, method: str) -> None:
    """A browser takes a 304's header fields over into its copy: the API's policy would blank the page."""
    whole = CLIENT.get(rule)

    answer = CLIENT.open(rule, method=method, headers={"If-None-Match": whole.headers["ETag"]})

    assert answer.status_code == 304
    assert answer.headers["Content-Security-Policy"] == whole.headers["Content-Security-Policy"]


@pytest.mark.parametrize("rule", PAGE_RULES)
def test_nothing_stands_inline_in_a_page(rule: str) -> None:
    assert Page(CLIENT.get(rule).text).inline == []


@pytest.mark.parametrize("rule", PAGE_RULES)
def test_what_a_page_loads_is_there_and_nothing_else_is(rule: str) -> None:
    page = Page(CLIENT.get(rule).text)

    assert page.loaded
    assert {urljoin(rule, each) for each in page.loaded} <= set(ASSET_RULES)
    assert all(CLIENT.get(each).status_code == 200 for each in page.loaded)


def test_every_asset_is_loaded_by_a_page() -> None:
    loaded = {each for rule in PAGE_RULES for each in Page(CLIENT.get(rule).text).loaded}

    assert loaded == set(ASSET_RULES)


@pytest.mark.parametrize("rule", PAGE_RULES)
def test_links_lead_to_paths_that_are_answered(rule: str) -> None:
    page = Page(CLIENT.get(rule).text)

    assert page.links
    for link in page.links:
        assert urlsplit(link).netloc == ""
        assert CLIENT.get(link).status_code in (200, 503)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_files_refer_to_no_other_origin(path: object) -> None:
    text = path.read_text()  # type: ignore[attr-defined]

    assert (
        re.findall(
            r"(?:https?:|wss?:)?//[a-zA-Z0-9]|@import|url\(", re.sub(r"^\s*//.*$", "", text, flags=re.M)
        )
        == []
    )


@pytest.mark.parametrize(
    "path", [each for each in OURS if each.name.endswith(".js")], ids=lambda path: path.name
)
def test_our_scripts_write_no_html_and_run_no_text(path: object) -> None:
    text = path.read_text()  # type: ignore[attr-defined]

    assert (
        re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|\.style\b", text
        )
        == []
    )


@pytest.mark.parametrize("rule", ASSET_RULES)
def test_an_asset_has_its_type_and_is_asked_for_again(rule: str) -> None:
    answer = CLIENT.get(rule)

    assert answer.status_code == 200
    assert answer.mimetype == TYPES[rule.rpartition(".")[2]]
    assert answer.data
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("rule", [*PAGE_RULES, *ASSET_RULES])
def test_what_has_not_changed_is_304(rule: str) -> None:
    tag = CLIENT.get(rule).headers["ETag"]

    same = CLIENT.get(rule, headers={"If-None-Match": tag})
    other = CLIENT.get(rule, headers={"If-None-Match": '"another"'})

    assert tag.startswith('W/"')
    assert (same.status_code, same.data, same.headers["ETag"]) == (304, b"", tag)
    assert same.headers["Cache-Control"] == "no-cache"
    assert other.status_code == 200


def test_files_have_different_tags() -> None:
    rules = [*PAGE_RULES, *ASSET_RULES]

    assert len({CLIENT.get(rule).headers["ETag"] for rule in rules}) == len(rules)


def test_the_document_is_served_as_json() -> None:
    answer = CLIENT.get("/openapi.json")

    assert answer.content_type == "application/json"
    assert answer.get_json()["openapi"].startswith("3.1.")


def test_no_page_asks_the_auxiliary() -> None:
    asked = len(UPSTREAM.sent)

    for rule in [*PAGE_RULES, *ASSET_RULES, "/openapi.json"]:
        CLIENT.get(rule)

    assert len(UPSTREAM.sent) == asked
