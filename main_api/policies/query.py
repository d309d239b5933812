"""A route's query string, checked by its schema once the caller is known."""

from collections.abc import Mapping
from dataclasses import replace

from marshmallow import Schema, ValidationError

from chassis.errors import Detail, ValidationFailed
from main_api.exchange import Call, Proceed, Reply

_VALUE_MOST = 200


class CheckQuery:
    """Let a call pass with the query that the schema has loaded, or raise :class:`ValidationFailed`.

    Behind authentication and limits, so that strangers learn nothing of what a route takes. Every fault is
    told: unknown and repeated parameters, and values that are wrong.
    """

    def __init__(self, schema: type[Schema]) -> None:
        # Made once: making a schema costs several times what loading a query with it does.
        self._schema = schema()

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Answer by ``proceed``."""
        return proceed(replace(call, query=self._loaded(call.query)))

    def _loaded(self, query: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        given: dict[str, list[str]] = {}
        for name, value in query:
            given.setdefault(name, []).append(value)
        faults: dict[str, list[str]] = {
            name: ["Repeated"] for name, values in given.items() if len(values) > 1
        }
        try:
            loaded = self._schema.load({name: values[0] for name, values in given.items()})
        except ValidationError as error:
            messages: dict[str, list[str]] = error.normalized_messages()  # type: ignore[no-untyped-call]  # marshmallow's own gap
            faults = {**messages, **faults}
            loaded = {}
        if faults:
            raise ValidationFailed(details=[_detail(name, faults[name], given) for name in sorted(faults)])
        return tuple(loaded.items())


def _detail(name: str, messages: list[str], given: Mapping[str, list[str]]) -> Detail:
    sent = given.get(name)
    value = None if sent is None else ",".join(sent)[:_VALUE_MOST]
    return {"field": name[:_VALUE_MOST], "message": " ".join(messages), "value": value}
