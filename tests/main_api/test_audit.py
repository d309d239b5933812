"""The audit log: its lines are written whatever else is not, say who and from where, and no secret."""

import io
import json
import logging
import logging.config
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from chassis import json_logs
from main_api.audit import Audit
from main_api.exchange import Call, Caller, Plan
from tests.main_api.support import call

CANARY = "canary-7f3a"
ANN = Caller("192.0.2.1", "user:u_ann", frozenset({"buckets:read"}), Plan("small"))
CONSTANT = {"service": "main-api", "environment": "testing", "version": "1.2.3"}

Configure = Callable[[str], io.StringIO]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Give what sets up logging as the services do, at a level, and gives what they then write."""
    names = ["", "main_api.audit", *json_logs.configuration("s", "e", "1", "info")["loggers"]]
    loggers = [logging.getLogger(name or None) for name in names]
    kept = [(each, each.level, list(each.handlers), each.propagate) for each in loggers]

    def set_up(level: str) -> io.StringIO:
        configuration = json_logs.configuration("main-api", "testing", "1.2.3", level)
        stream = configuration["handlers"]["stderr"]["stream"] = io.StringIO()
        logging.config.dictConfig(configuration)
        return stream  # type: ignore[no-any-return]

    yield set_up
    for logger, level, handlers, propagate in kept:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def written(
    stream: io.StringIO, event: str, about: Call, caller: Caller | None, **facts: object
) -> dict[str, Any]:
    """Write one line, outside any request of another test, and read it."""
    stream.seek(0)
    stream.truncate()
    Context().run(Audit(), event, about, caller, **facts)
    [line] = lines(stream)
    return line


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
@pytest.mark.parametrize("made_first", [True, False])
def test_a_line_is_written_whatever_the_level_is_and_whatever_came_first(
    configure: Configure, level: str, made_first: bool
) -> None:
    logging.getLogger("main_api.audit").setLevel(logging.NOTSET)
    made = Audit() if made_first else None
    stream = configure(level)
    audit = made or Audit()
    audit("login", call(), ANN)
    audit.write("key made", key="k_1")
    logging.getLogger("main_api.app").info("of no audit")

    told = [line["message"] for line in lines(stream)]
    assert told == [
        "audit: login",
        "audit: key made",
        *(["of no audit"] if level in ("debug", "info") else []),
    ]
    assert {line["level"] for line in lines(stream)} == {"info"}


def test_a_line_says_what_was_done_by_whom_from_where_and_in_which_request(configure: Configure) -> None:
    stream = configure("error")
    line = written(stream, "forbidden", call("/api/s3/buckets"), ANN, reason="This takes the scope x")

    assert line.pop("timestamp")
    assert line == {
        **CONSTANT,
        "level": "info",
        "logger": "main_api.audit",
        "message": "audit: forbidden",
        "event": "forbidden",
        "subject": "user:u_ann",
        "clientAddress": "192.0.2.1",
        "requestId": "an-id",
        "path": "/api/s3/buckets",
        "reason": "This takes the scope x",
    }


def test_of_somebody_unknown_there_is_the_address(configure: Configure) -> None:
    line = written(configure("error"), "refused", call(), None, reason="unauthenticated")

    assert (line["subject"], line["clientAddress"]) == (None, "192.0.2.1")


def test_where_a_call_came_from_is_what_the_door_has_found(configure: Configure) -> None:
    asked = replace(call(), caller=Caller("198.51.100.7", "somebody-before"))
    line = written(configure("error"), "login", asked, ANN)

    assert (line["subject"], line["clientAddress"]) == ("user:u_ann", "198.51.100.7")


def test_what_no_call_did_has_no_fields_of_one(configure: Configure) -> None:
    stream = configure("error")
    Context().run(Audit().write, "key revoked", key="k_1", owner="billing")
    [line] = lines(stream)

    assert set(line) - {"timestamp", "level", "logger", "message", *CONSTANT} == {"event", "key", "owner"}
    assert (line["key"], line["owner"]) == ("k_1", "billing")


def test_nothing_else_of_a_call_is_written(configure: Configure) -> None:
    asked = replace(
        call("/auth/login", query=[("token", CANARY)], headers=(("Authorization", CANARY),)),
        body=json.dumps({"password": CANARY}).encode(),
        client_header=lambda _: CANARY,
    )
    for level in ("debug", "error"):
        stream = configure(level)
        written(stream, "login refused", asked, replace(ANN, scopes=frozenset({CANARY}), plan=Plan(CANARY)))
        assert CANARY not in stream.getvalue()


TEXTS = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(
    ["\n", '{"event": "login"}\n{"event": "login"}', "\u2028", "\x00\x1b[2J", '"', "%s %d", "{}"]
)


@given(path=TEXTS, subject=TEXTS, fact=TEXTS | st.floats() | st.binary(max_size=3))
@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_client_makes_up_is_one_line(
    configure: Configure, path: str, subject: str, fact: object
) -> None:
    stream = configure("error")
    Context().run(Audit(), "refused", replace(call(), path=path), replace(ANN, subject=subject), reason=fact)

    text = stream.getvalue()
    assert text.count("\n") == 1
    line = json.loads(text)
    assert (line["event"], line["path"], line["subject"]) == ("refused", path, subject)
    assert line["reason"] == fact or line["reason"] == str(fact)
