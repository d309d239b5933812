"""W3C Trace Context: one traceparent goes on, by the rules, and the trace id is kept."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
VALID = f"00-{TRACE}-{PARENT}-01"
OUTGOING = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[01]")

trace_ids = st.from_regex(r"[0-9a-f]{32}", fullmatch=True).filter(lambda text: int(text, 16) > 0)
parent_ids = st.from_regex(r"[0-9a-f]{16}", fullmatch=True).filter(lambda text: int(text, 16) > 0)
flags = st.from_regex(r"[0-9a-f]{2}", fullmatch=True)
later_versions = flags.filter(lambda text: text not in ("00", "ff"))
keys = st.from_regex(
    r"[a-z][a-z0-9_\-*/]{0,20}|[a-z0-9][a-z0-9_\-*/]{0,20}@[a-z][a-z0-9_\-*/]{0,13}", fullmatch=True
)
values = st.from_regex(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,20}[\x21-\x2b\x2d-\x3c\x3e-\x7e]", fullmatch=True)


def sent_on(client: FlaskClient, traceparent: str, tracestate: str = "") -> dict[str, str]:
    """Give the headers of a call upstream within a request that came with these."""
    environ = {"HTTP_TRACEPARENT": traceparent, "HTTP_TRACESTATE": tracestate}
    headers: dict[str, str] = client.get("/trace", environ_overrides=environ).get_json()
    return headers


def begins_anew(headers: dict[str, str], *not_these: str) -> bool:
    found = OUTGOING.fullmatch(headers["traceparent"])
    assert found
    assert int(found[1], 16) > 0
    assert int(found[2], 16) > 0
    return set(headers) == {"traceparent"} and found[1] not in not_these


@settings(deadline=None)
@given(trace_ids, parent_ids, flags)
def test_the_trace_id_is_kept_and_the_span_is_our_own(
    client: FlaskClient, trace: str, parent: str, flag: str
) -> None:
    found = OUTGOING.fullmatch(sent_on(client, f"00-{trace}-{parent}-{flag}")["traceparent"])

    assert found
    assert found[1] == trace
    assert found[2] != parent
    assert int(found[2], 16) > 0


@pytest.mark.parametrize(("flag", "goes_on"), [("00", "00"), ("01", "01"), ("ff", "01"), ("fe", "00")])
def test_of_the_flags_only_sampled_goes_on(client: FlaskClient, flag: str, goes_on: str) -> None:
    assert sent_on(client, f"00-{TRACE}-{PARENT}-{flag}")["traceparent"].endswith(f"-{goes_on}")


@settings(deadline=None)
@given(
    later_versions, trace_ids, parent_ids, flags, st.just("") | st.from_regex(r"-[!-~]{0,40}", fullmatch=True)
)
def test_a_later_version_is_read_by_its_first_four_fields(
    client: FlaskClient, version: str, trace: str, parent: str, flag: str, rest: str
) -> None:
    found = OUTGOING.fullmatch(
        sent_on(client, f"{version}-{trace}-{parent}-{flag}{rest}", "a=1")["traceparent"]
    )

    assert found
    assert found[1] == trace


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"cc-{TRACE}-{PARENT}-012",
        f"cc-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f"00-{TRACE}-{PARENT}-0A",
        f"0A-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"00-{TRACE}-{PARENT[1:]}-01",
        f"00-{TRACE}-{PARENT}0-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}",
        f"00_{TRACE}_{PARENT}_01",
        f"{VALID}\n",
        f"{VALID},{VALID}",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE[:-1]}\u00b2-{PARENT}-01",
    ],
)
def test_a_traceparent_against_the_rules_begins_a_trace_without_state(
    client: FlaskClient, traceparent: str
) -> None:
    assert begins_anew(sent_on(client, traceparent, "vendor=1"), TRACE, "0" * 32)


@settings(deadline=None)
@given(
    st.text(st.characters(max_codepoint=255), max_size=80),
    st.text(st.characters(max_codepoint=255), max_size=80),
)
def test_whatever_comes_one_traceparent_by_the_rules_goes_on(
    client: FlaskClient, traceparent: str, tracestate: str
) -> None:
    assert OUTGOING.fullmatch(sent_on(client, traceparent, tracestate)["traceparent"])


def test_two_requests_without_a_trace_are_two_traces(client: FlaskClient) -> None:
    first, second = (sent_on(client, "")["traceparent"].split("-")[1] for _ in range(2))

    assert first != second


@settings(deadline=None)
@given(st.lists(st.tuples(keys, values), min_size=1, max_size=8, unique_by=lambda member: member[0]))
def test_a_well_formed_state_goes_on_unchanged(client: FlaskClient, members: list[tuple[str, str]]) -> None:
    state = ", ".join(f"{key}={value}" for key, value in members)
    if len(state) <= 512:
        assert sent_on(client, VALID, state)["tracestate"] == state


@pytest.mark.parametrize(
    "state",
    [
        "a=1,,b=2",
        "a=1 \t, \tb=2",
        ",".join(f"k{number}=1" for number in range(32)),
        "z" * 256 + "=1",
        "t" * 241 + "@" + "v" * 14 + "=1",
        "0tenant@vendor=1",
        "a=" + "v" * 256,
        "a=" + "v" * 255 + ",b=" + "w" * 252,  # 512 characters
    ],
)
def test_a_state_up_to_the_limits_goes_on(client: FlaskClient, state: str) -> None:
    assert sent_on(client, VALID, state).get("tracestate") == state


@pytest.mark.parametrize(
    "state",
    [
        "",
        "a",
        "=1",
        "a=",
        "a=1=2",
        "A=1",
        "a b=1",
        "a =1",
        "foo.bar=1",
        "\u00e4=1",
        "a=\u00e4",
        "a=\x7f",
        "a=1\n",
        "a=1;b=2,c",
        ",".join(f"k{number}=1" for number in range(33)),
        "z" * 257 + "=1",
        "a=" + "v" * 257,
        "a=" + "v" * 255 + ",b=" + "w" * 253,  # 513 characters
    ],
)
def test_a_state_against_the_rules_is_left_out_and_the_trace_goes_on(client: FlaskClient, state: str) -> None:
    headers = sent_on(client, VALID, state)

    assert "tracestate" not in headers
    assert headers["traceparent"].split("-")[1] == TRACE


@pytest.mark.parametrize(
    "state",
    [
        "0a=1",
        "foo@=1",
        "@foo=1",
        "foo@@bar=1",
        "foo@bar@baz=1",
        "t" * 242 + "@v=1",
        "t@" + "v" * 15 + "=1",
        "t@0=1",
    ],
)
def test_a_key_of_several_tenants_is_tenant_at_system(client: FlaskClient, state: str) -> None:
    assert "tracestate" not in sent_on(client, VALID, state)


def test_the_trace_id_is_in_the_log(client: FlaskClient, logged: Callable[..., list[dict[str, Any]]]) -> None:
    client.get("/plain", headers={"traceparent": VALID})
    client.get("/plain")
    continued, begun = logged()

    assert continued["traceId"] == TRACE
    assert re.fullmatch(r"[0-9a-f]{32}", begun["traceId"])
    assert begun["traceId"] != TRACE
