"""The maker of the document: it describes what it is given."""

import json
from typing import Any

from marshmallow import Schema, fields

from main_api.console.openapi import EVERYWHERE, document
from main_api.exchange import Reply
from main_api.routing.route import Documentation, Route, ToFunction


class Answered(Schema):
    value = fields.String(required=True)


class Asked(Schema):
    what = fields.String(required=True)
    how = fields.String()


ROUTE = Route(
    name="some-route",
    rule="/some",
    end=ToFunction(lambda _: Reply(200)),
    query=Asked,
    documentation=Documentation("A summary", Answered, "A description.", errors=(304, 503), tag="some"),
)
PLAIN = Documentation("Plain", "text/plain")


def described() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(document("9.8.7", [ROUTE], {"/plain": PLAIN}))
    return made


def test_the_version_is_the_services() -> None:
    assert described()["info"]["version"] == "9.8.7"


def test_every_route_and_every_plain_view_has_its_path() -> None:
    assert list(described()["paths"]) == ["/some", "/plain"]


def test_an_operation_says_what_the_route_declares() -> None:
    operation = described()["paths"]["/some"]["get"]

    assert operation["operationId"] == "some-route"
    assert (operation["summary"], operation["description"]) == ("A summary", "A description.")
    assert operation["tags"] == ["some"]
    assert {(each["name"], each["in"], each["required"]) for each in operation["parameters"]} == {
        ("what", "query", True),
        ("how", "query", False),
    }
    assert operation["responses"]["200"]["content"] == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Answered"}}
    }


def test_the_statuses_are_the_declared_and_those_of_every_path() -> None:
    responses = described()["paths"]["/some"]["get"]["responses"]

    assert set(responses) == {str(status) for status in (200, 304, 503, *EVERYWHERE)}
    assert "content" not in responses["304"]
    assert "ETag" in responses["200"]["headers"]
    assert "ETag" in responses["304"]["headers"]
    assert "Retry-After" in responses["503"]["headers"]


def test_an_error_has_both_its_forms() -> None:
    content = described()["paths"]["/some"]["get"]["responses"]["500"]["content"]

    assert content == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Error"}},
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
    }


def test_a_plain_view_has_its_media_type() -> None:
    operation = described()["paths"]["/plain"]["get"]

    assert operation["operationId"] == "plain"
    assert operation["responses"]["200"]["content"] == {"text/plain": {}}
    assert "parameters" not in operation


def test_the_document_is_the_same_each_time() -> None:
    assert document("1", [ROUTE], {"/plain": PLAIN}) == document("1", [ROUTE], {"/plain": PLAIN})
