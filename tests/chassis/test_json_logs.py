"""The log: one JSON object a line, whatever is logged."""

import json
import logging
import math
import re
import subprocess
import sys
from contextvars import Context
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NoReturn

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis import timestamp
from chassis.json_logs import JsonFormatter

ROOT = Path(__file__).parents[2]


def written(message: object, *args: object, **more: Any) -> str:
    record = logging.LogRecord("a.logger", logging.WARNING, __file__, 1, message, args, None)
    vars(record).update(more)
    # In a context of its own: this thread has served requests.
    return Context().run(JsonFormatter("main-api", "testing", "1.2.3").format, record)


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def strictly_read(text: str) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(text, parse_constant=no_constant)
    return line


def test_a_line_says_when_how_grave_who_where_and_what() -> None:
    moment = datetime(2023, 12, 1, 12, 0, 0, 987654, UTC)
    line = strictly_read(written("%s of %d", "one", 2, created=moment.timestamp()))

    assert line == {
        "timestamp": "2023-12-01T12:00:00.987Z",
        "level": "warning",
        "service": "main-api",
        "version": "1.2.3",
        "environment": "testing",
        "logger": "a.logger",
        "message": "one of 2",
    }


@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.booleans()))
@settings(deadline=None)
def test_any_text_is_one_line_and_comes_back_unchanged(message: str, fields: dict[str, object]) -> None:
    text = written(message, fields={f"own {name}": value for name, value in fields.items()})
    line = strictly_read(text)

    assert len(re.split(r"[\r\n]", text)) == 1
    assert line["message"] == message
    assert {name[4:]: value for name, value in line.items() if name.startswith("own ")} == fields


def test_fields_are_added_by_name_and_nothing_else_of_extra() -> None:
    line = strictly_read(written("hello", fields={"status": 200}, password="do not log me"))

    assert line["status"] == 200
    assert "do not log me" not in json.dumps(line)


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, Path("/x"), datetime(2023, 1, 1, tzinfo=UTC), object()])
def test_a_value_that_json_cannot_hold_is_written_as_text(value: object) -> None:
    assert strictly_read(written("hello", fields={"value": value}))["value"] == str(value)


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {(1, 2): 3}, CIRCLE], ids=str)
def test_whatever_json_cannot_hold_no_line_is_lost_or_unreadable(value: object) -> None:
    assert strictly_read(written("hello", fields={"value": value}))["message"] == "hello"


def test_an_exception_is_part_of_the_same_line() -> None:
    try:
        raise ValueError("several\nlines")
    except ValueError:
        text = written("failed", exc_info=sys.exc_info())

    assert "\n" not in text
    assert strictly_read(text)["exception"].endswith("ValueError: several\nlines")


def test_outside_a_request_a_line_has_no_ids() -> None:
    assert not {"requestId", "traceId"} & set(strictly_read(written("hello")))


def test_timestamps_are_utc_with_milliseconds_whatever_the_zone() -> None:
    noon = datetime(2023, 12, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))

    assert timestamp(noon) == "2023-12-01T12:00:00.000Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp())
    assert abs(datetime.fromisoformat(timestamp()) - datetime.now(UTC)) < timedelta(minutes=1)


SCRIPT = """
import logging, logging.config, sys
from chassis.json_logs import configuration

early = logging.getLogger("made.before")
gunicorn = logging.getLogger("gunicorn.error")
gunicorn.addHandler(logging.StreamHandler(sys.stdout))
gunicorn.propagate = False
logging.config.dictConfig(configuration("main-api", "testing", "1.2.3", sys.argv[1]))
early.debug("debug of ours")
early.info("info of ours")
early.error("error of ours")
gunicorn.info("info of gunicorn")
gunicorn.error("error of gunicorn")
logging.getLogger("gunicorn.access").error("access of gunicorn")
for name in ("botocore.auth", "boto3", "urllib3.connectionpool", "werkzeug"):
    logging.getLogger(name).debug("secret of a library")
logging.getLogger("urllib3.connectionpool").warning("secret of a library")
"""


@pytest.mark.parametrize(
    ("level", "told"),
    [
        (
            "debug",
            ["debug of ours", "info of ours", "error of ours", "info of gunicorn", "error of gunicorn"],
        ),
        ("info", ["info of ours", "error of ours", "info of gunicorn", "error of gunicorn"]),
        ("error", ["error of ours", "error of gunicorn"]),
    ],
)
def test_everything_is_told_once_on_standard_error_and_libraries_tell_no_secret(
    level: str, told: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, level],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [strictly_read(line) for line in done.stderr.splitlines()]

    assert done.stdout == ""
    assert [line["message"] for line in lines] == told
    assert {(line["service"], line["environment"], line["version"]) for line in lines} == {
        ("main-api", "testing", "1.2.3")
    }


def test_a_path_in_any_script_is_one_line(client: FlaskClient, logged: Any) -> None:
    client.get("/plain%0a%e2%80%a8%00%22%ff")
    [line] = logged()

    assert line["path"] == '/plain\n\u2028\x00"\ufffd'
