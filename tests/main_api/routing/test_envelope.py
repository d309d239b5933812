"""The envelope: bytes joined, never parsed, and JSON all the same."""

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from main_api.routing.envelope import wrap

VERSIONS = {"main-api": "1.0.0", "auxiliary-service": "unknown"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.sampled_from(["", " ", "\n", "\r\n\t "]))
@hypothesis_settings(deadline=None, database=None)
def test_any_object_gives_valid_json_with_these_fields_in_this_order(
    body: dict[str, Any], space: str
) -> None:
    wrapped = json.loads(
        wrap((json.dumps(body, ensure_ascii=False) + space).encode("utf-8", "replace"), VERSIONS)
    )

    assert list(wrapped) == ["success", "data", "versions", "timestamp"]
    assert wrapped["success"] is True
    assert wrapped["versions"] == VERSIONS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", wrapped["timestamp"])
    assert wrapped["data"] == json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))


@given(st.binary())
@hypothesis_settings(deadline=None, database=None)
def test_the_body_is_joined_as_the_bytes_it_came_in(body: bytes) -> None:
    wrapped = wrap(b"{" + body + b"}", VERSIONS)

    assert wrapped.startswith(b'{"success":true,"data":{' + body + b'},"versions":')


@given(st.text())
@hypothesis_settings(deadline=None, database=None)
def test_no_version_can_break_the_envelope(version: str) -> None:
    assert json.loads(wrap(b"{}", {"main-api": version}))["versions"] == {"main-api": version}
