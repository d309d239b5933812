"""What the auxiliary may answer: data, its own errors by table, and nothing else."""

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from main_api.errors import BareServerError, Busy, GatewayError, Malformed, ServiceRefused, Unexpected
from main_api.exchange import Call, Reply, Stream
from main_api.upstream.answers import Checked, service_version
from main_api.upstream.versions import Versions
from tests.main_api.support import BODY, Answer, call, error_answer

AUXILIARY = "auxiliary-service"


def reply_of(answer: Answer) -> Reply:
    return Reply(answer.status, answer.all_headers, answer.body)


def checked(answer: Answer, versions: Versions | None = None) -> Reply:
    def send(_: Call) -> Reply:
        return reply_of(answer)

    return Checked(send, AUXILIARY, versions or Versions("main-api", "1", [AUXILIARY]))(call())


def fault(answer: Answer) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        checked(answer)
    return caught.value


@pytest.mark.parametrize(
    "body", [BODY, b"{}", b'{"a":1} \r\n\t\n', b'{"not":"even json", }', '{"ä":"日本"}'.encode(), b"{\xff}"]
)
def test_a_complete_object_is_passed_on_as_the_bytes_that_came(body: bytes) -> None:
    assert checked(Answer(body)).body == body


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/json ;x"],
)
def test_json_is_json_whatever_its_spelling_and_parameters(content_type: str) -> None:
    assert checked(Answer().with_headers(Content_Type=content_type)).status == 200


def test_chunking_tells_the_end_as_well_as_a_length() -> None:
    answer = Answer(headers=(("content-type", "application/json"), ("transfer-encoding", "Chunked")))

    assert checked(answer).body == BODY


UNFIT = {
    "a page of a proxy": Answer(b"<html>Bad day</html>").with_headers(Content_Type="text/html"),
    "an object of another type": Answer().with_headers(Content_Type="text/plain"),
    "a type that only begins like JSON": Answer().with_headers(Content_Type="application/json-seq"),
    "a problem with status 200": Answer().with_headers(Content_Type="application/problem+json"),
    "no type": Answer().with_headers(Content_Type=""),
    "no length": Answer().with_headers(Content_Length=""),
    "compressed though nobody asked": Answer().with_headers(Content_Encoding="gzip"),
    "a list": Answer(b"[]"),
    "a string": Answer(b'"{}"'),
    "nothing": Answer(b""),
    "white space": Answer(b"  \n"),
    "white space before the object": Answer(b" {}"),
    "a byte order mark": Answer(b"\xef\xbb\xbf{}"),
    "cut in the middle": Answer(BODY[:-1]),
    "only its first byte": Answer(b"{"),
    "something after the object": Answer(b"{}x"),
    "a form feed after the object": Answer(b"{}\x0c"),
    "created": Answer(status=201),
    "no content": Answer(b"", 204, ()),
    "partial content": Answer(status=206),
    "a redirect": Answer(b"", 302).with_headers(Location="http://elsewhere.test/"),
    "not modified, which nobody asked": Answer(b"", 304, ()),
}


@pytest.mark.parametrize("answer", UNFIT.values(), ids=UNFIT.keys())
def test_anything_else_is_malformed(answer: Answer) -> None:
    error = fault(answer)

    assert type(error) is Malformed
    assert (error.status, error.code) == (502, "bad_gateway")
    assert error.message == "Auxiliary service gave no valid answer"


@given(st.binary(max_size=60))
@hypothesis_settings(deadline=None, database=None)
def test_a_body_passes_only_from_brace_to_brace(body: bytes) -> None:
    stripped = body.rstrip(b" \t\r\n")
    whole = len(stripped) >= 2 and stripped[:1] == b"{" and stripped[-1:] == b"}"

    try:
        passed = checked(Answer(body)).body == body
    except Malformed:
        passed = False

    assert passed is whole


@pytest.mark.parametrize("name", ["If-None-Match", "If-Modified-Since"])
def test_a_304_passes_where_our_call_named_a_tag(name: str) -> None:
    fields = (("ETag", 'W/"a"'), ("X-Service-Version", "3.0.0"))
    check = Checked(lambda _: Reply(304, fields), AUXILIARY, Versions("main-api", "1", [AUXILIARY]))
    asked = call(headers=(("traceparent", "x"), (name, 'W/"a"')))

    if name == "If-None-Match":
        assert (check(asked).status, check(asked).headers) == (304, fields)
    else:
        with pytest.raises(Malformed):
            check(asked)


def test_a_stream_is_no_data_that_can_be_enveloped() -> None:
    closed: list[int] = []
    stream = Stream(iter([BODY]), lambda: closed.append(1))
    send = lambda _: Reply(200, Answer().all_headers, stream)  # noqa: E731

    with pytest.raises(Malformed):
        Checked(send, AUXILIARY, Versions("main-api", "1", [AUXILIARY]))(call())
    assert closed == [1]


KEPT = [(400, "invalid_request"), (403, "forbidden"), (404, "parameter_not_found")]
AWS = [
    (502, "aws_access_denied"),
    (502, "aws_credentials"),
    (502, "aws_unreachable"),
    (502, "aws_error"),
    (503, "aws_throttled"),
    (504, "aws_timeout"),
]


@pytest.mark.parametrize(("status", "code"), KEPT + AWS)
def test_these_errors_keep_status_and_code_and_get_our_prefix(status: int, code: str) -> None:
    error = fault(error_answer(status, code, "Something is wrong"))

    assert type(error) is ServiceRefused
    assert (error.status, error.code) == (status, code)
    assert error.message == "Auxiliary service error: Something is wrong"
    assert error.service_version == "2.3.4"
    assert error.sent is True


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "unauthenticated"),
        (401, "invalid_request"),
        (403, "invalid_request"),
        (404, "not_found"),
        (404, "invalid_request"),
        (400, "parameter_not_found"),
        (400, "bad_request"),
        (400, "validation_failed"),
        (400, "aws_error"),
        (404, "aws_error"),
        (500, "aws_error"),
        (405, "method_not_allowed"),
        (429, "rate_limited"),
        (500, "internal_error"),
        (502, "forbidden"),
        (502, "aws_"),
        (502, "aws_ERROR"),
        (502, "aws_error\n"),
        (502, "aws_" + "x" * 41),
        (502, "my_aws_error"),
        (500, "overloaded"),
        (429, "overloaded"),
        (502, "overloaded"),
        (504, "upstream_unavailable"),
        (503, "circuit_open"),
        (503, "Overloaded"),
        (503, "overloaded "),
        (503, "gateway_timeout"),
        (503, "internal_error"),
        (201, "aws_error"),
        (418, "teapot"),
    ],
)
def test_any_other_pair_of_status_and_code_is_none_of_the_clients_business(
    status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = fault(error_answer(status, code, "why it is so"))

    assert type(error) is Unexpected
    assert (error.status, error.code) == (502, "bad_gateway")
    assert error.message == "Auxiliary service gave no valid answer"
    assert "why it is so" in caplog.text


BUSY = ["overloaded", "upstream_unavailable"]


@pytest.mark.parametrize("code", BUSY)
def test_an_instance_that_says_not_now_is_busy(code: str, caplog: pytest.LogCaptureFixture) -> None:
    error = fault(error_answer(503, code, "secret sentence"))

    assert type(error) is Busy
    assert (error.status, error.code, error.sent) == (502, "bad_gateway", True)
    assert error.message == "Auxiliary service gave no valid answer"
    assert error.retry_after is None
    assert error.service_version == "2.3.4"
    assert code in caplog.text


def test_each_class_is_one_a_policy_can_tell_from_the_others() -> None:
    assert issubclass(BareServerError, Malformed)
    assert not any(issubclass(kind, Malformed) for kind in (Busy, Unexpected, ServiceRefused))
    assert not issubclass(Busy, Unexpected)
    assert not issubclass(Unexpected, Busy)


CODES = [code for _, code in KEPT + AWS] + ["unauthenticated", "internal_error", "not_found", "", *BUSY]


@pytest.mark.parametrize("status", [201, 204, 301, 304, *range(400, 418), 429, *range(500, 506), 599])
@pytest.mark.parametrize("code", CODES)
def test_no_status_and_code_but_those_of_the_table_reach_a_client(status: int, code: str) -> None:
    error = fault(error_answer(status, code))

    in_table = (status, code) in KEPT or (code.startswith("aws_") and status in (502, 503, 504))
    busy = status == 503 and code in BUSY
    assert (error.status, error.code) == ((status, code) if in_table else (502, "bad_gateway"))
    assert type(error) is (ServiceRefused if in_table else Busy if busy else Unexpected)


WITHOUT_THE_BODY = pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'"aws_error"',
        b"{}",
        b'{"code":"aws_error"}',
        b'{"error":"x"}',
        b'{"code":7,"error":"x"}',
        b'{"code":"aws_error","error":["x"]}',
        b'{"code":["aws_error"],"error":"x"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=lambda body: body[:20],
)


# What a proxy, or what is left of the service, says of a service that it does not reach.
BARE = (502, 503, 504)


@WITHOUT_THE_BODY
@pytest.mark.parametrize("status", BARE)
def test_a_502_503_or_504_without_the_contracts_body_is_a_bare_server_error(status: int, body: bytes) -> None:
    error = fault(Answer(body, status))

    assert type(error) is BareServerError
    assert (error.status, error.code) == (502, "bad_gateway")


@WITHOUT_THE_BODY
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 501, 505, 599])
def test_any_other_error_without_the_contracts_body_is_malformed(status: int, body: bytes) -> None:
    assert type(fault(Answer(body, status))) is Malformed


@pytest.mark.parametrize("status", [500, *BARE])
@pytest.mark.parametrize("code", ["aws_error", "overloaded"])
def test_an_error_in_a_page_is_not_read(status: int, code: str) -> None:
    answer = error_answer(status, code).with_headers(Content_Type="text/html")

    assert type(fault(answer)) is (BareServerError if status in BARE else Malformed)


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("with\r\nSet-Cookie: a=b", "withSet-Cookie: a=b"),
        ("bell\x07 escape\x1b[31m", "bell escape[31m"),
        ("turned \u202e round \u200b", "turned  round "),
        ("half \ud800 a pair", "half  a pair"),
        ("Grüße, 日本", "Grüße, 日本"),
        ("x" * 10_000, "x" * 500),
    ],
)
def test_a_hostile_sentence_is_printable_and_short(sentence: str, shown: str) -> None:
    assert fault(error_answer(502, "aws_error", sentence)).message == f"Auxiliary service error: {shown}"


@given(st.text())
@hypothesis_settings(deadline=None, database=None)
def test_any_sentence_becomes_one_line(sentence: str) -> None:
    message = fault(error_answer(404, "parameter_not_found", sentence)).message

    assert message.isprintable()
    assert len(message) <= 600
    json.dumps(message).encode()


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("7", 7),
        ("3600", 3600),
        ("999999999", 3600),
        ("99999999999999", 1),
        ("", 1),
        ("-5", 1),
        ("1.5", 1),
        ("soon", 1),
        ("٣", 1),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1),
    ],
)
def test_retry_after_is_passed_on_within_bounds(header: str, shown: int) -> None:
    assert fault(error_answer(503, "aws_throttled", Retry_After=header)).retry_after == shown


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error_answer(503, "overloaded"), Busy),
        (error_answer(503, "upstream_unavailable"), Busy),
        (error_answer(429, "rate_limited"), Unexpected),
        (Answer(b"", 503), BareServerError),
        (Answer(b"", 429), Malformed),
        (Answer(b"[]", 200), Malformed),
    ],
    ids=["overloaded", "unavailable", "unexpected", "bare", "malformed", "not an object"],
)
@pytest.mark.parametrize(
    ("header", "pushback"),
    [
        ("7", 7),
        ("0", 0),
        ("3600", 3600),
        ("999999999", 3600),
        ("99999999999999", 0),
        ("", 0),
        ("-5", 0),
        ("1.5", 0),
        ("٣", 0),
        ("soon", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_how_long_an_instance_wants_to_be_left_alone_is_kept_for_the_retries(
    answer: Answer, kind: type[GatewayError], header: str, pushback: int
) -> None:
    error = fault(answer.with_headers(Retry_After=header))

    assert type(error) is kind
    assert (error.pushback or 0) == pushback
    assert error.retry_after is None


def test_what_aws_said_pushes_back_nobody() -> None:
    """It is not asked again anyway; the client is told when to come back."""
    error = fault(error_answer(503, "aws_throttled", Retry_After="7"))

    assert (error.pushback, error.retry_after) == (None, 7)


@pytest.mark.parametrize(
    ("status", "code"), [(502, "aws_error"), (504, "aws_timeout"), (404, "parameter_not_found")]
)
def test_only_a_503_says_when_to_come_back(status: int, code: str) -> None:
    assert fault(error_answer(status, code, Retry_After="7")).retry_after is None


@pytest.mark.parametrize("answer", [Answer(), error_answer(404, "parameter_not_found"), Answer(b"", 401)])
def test_the_version_is_learnt_from_whatever_is_answered(answer: Answer) -> None:
    versions = Versions("main-api", "1", [AUXILIARY])
    assert versions.shown() == {"main-api": "1", AUXILIARY: "unknown"}

    error: Any = None
    try:
        checked(answer, versions)
    except GatewayError as caught:
        error = caught

    assert versions.shown() == {"main-api": "1", AUXILIARY: "2.3.4"}
    assert error is None or error.service_version == "2.3.4"


@pytest.mark.parametrize("value", ["", "a b", "x" * 65, "<script>", "1.0\n", "ä"])
def test_a_version_that_is_none_is_not_learnt(value: str) -> None:
    versions = Versions("main-api", "1", [AUXILIARY])
    versions.learn(AUXILIARY, "1.0.0")
    headers = (*Answer().with_headers(X_Service_Version="").all_headers, ("x-service-version", value))

    assert service_version(Reply(200, headers)) is None
    checked(Answer(headers=headers), versions)
    assert versions.shown()[AUXILIARY] == "1.0.0"


def test_the_version_at_hand_goes_before_the_one_that_was_learnt() -> None:
    versions = Versions("main-api", "1", [AUXILIARY])
    versions.learn(AUXILIARY, "2")

    assert versions.shown(AUXILIARY, "3") == {"main-api": "1", AUXILIARY: "3"}
    assert versions.shown(AUXILIARY, None) == {"main-api": "1", AUXILIARY: "2"}


@pytest.mark.parametrize(
    "answer", [Answer(b"[]"), error_answer(404, "parameter_not_found"), Answer(b"", 500)]
)
def test_what_is_refused_is_closed_once(answer: Answer) -> None:
    closed: list[int] = []
    reply = reply_of(answer)
    reply.on_close(lambda: closed.append(1))

    with pytest.raises(GatewayError):
        Checked(lambda _: reply, AUXILIARY, Versions("main-api", "1", [AUXILIARY]))(call())
    assert closed == [1]


def test_what_is_passed_on_is_still_open() -> None:
    closed: list[int] = []
    reply = reply_of(Answer())
    reply.on_close(lambda: closed.append(1))

    assert Checked(lambda _: reply, AUXILIARY, Versions("main-api", "1", [AUXILIARY]))(call()) is reply
    assert closed == []


def test_data_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    fault(Answer(b'["canary"]'))
    checked(Answer(b'{"a":"canary"}'))

    assert caplog.records
    assert "canary" not in caplog.text


FAULT = {"field": "name", "message": "is wrong", "value": "x"}


def refused_with(details: Any, status: int = 400, code: str = "invalid_request") -> GatewayError:
    answer = error_answer(status, code)
    facts = {**json.loads(answer.body), "details": details}
    return fault(Answer(json.dumps(facts).encode(), status))


@pytest.mark.parametrize(
    ("given_details", "shown"),
    [
        ([FAULT], [FAULT]),
        ([{**FAULT, "value": None}], [{**FAULT, "value": None}]),
        ([{**FAULT, "secret": "x"}], [FAULT]),
        (
            [{"field": "a\r\nb", "message": "c\x00d", "value": "e\x1bf"}],
            [{"field": "ab", "message": "cd", "value": "ef"}],
        ),
        (
            [{"field": "f" * 900, "message": "m", "value": 7}],
            [{"field": "f" * 500, "message": "m", "value": "7"}],
        ),
        ([{"field": "name"}, {"message": "m"}, "text", None, 7, []], []),
        ("text", []),
        ({"field": "name", "message": "m"}, []),
        ([FAULT] * 1000, [FAULT] * 20),
    ],
)
def test_details_are_copied_field_by_field(given_details: Any, shown: list[Any]) -> None:
    assert list(refused_with(given_details).details) == shown


@pytest.mark.parametrize(("status", "code"), [each for each in KEPT + AWS if each[0] != 400])
def test_only_a_400_has_details(status: int, code: str) -> None:
    assert refused_with([FAULT], status, code).details == ()
