"""API keys: what they look like, and that nothing but their digest is kept."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from main_api.accounts.api_keys import digest, new_key


def test_a_new_key_has_its_form_and_the_digest_that_will_be_looked_for() -> None:
    made = new_key()

    assert re.fullmatch(r"gwk_[A-Za-z0-9_-]{43}", made.text)
    assert made.digest == digest(made.text) == hashlib.sha256(made.text.encode()).hexdigest()
    assert re.fullmatch(r"k_[0-9a-f]{16}", made.id)


def test_no_two_keys_are_the_same() -> None:
    made = [new_key() for _ in range(100)]

    assert len({each.text for each in made}) == len({each.id for each in made}) == 100


def test_neither_key_nor_digest_is_in_the_repr() -> None:
    made = new_key()

    assert made.id in repr(made)
    assert made.text not in repr(made) + str(made)
    assert made.digest not in repr(made)
    assert made.text[4:12] not in made.id


def test_a_digest_is_lower_case_sha_256() -> None:
    # The example is of `printf gwk_AAAA... | sha256sum`.
    assert digest("gwk_" + 43 * "A") == "0d2d004976a5705e15873f3fbb5298119eeb6c4d031bec8711fd6646a0f091d4"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gwk_",
        "gwk_" + 42 * "A",
        "gwk_" + 44 * "A",
        "gwk_" + 43 * "A" + "\n",
        " gwk_" + 43 * "A",
        "GWK_" + 43 * "A",
        "gwk-" + 43 * "A",
        "gwk_" + 42 * "A" + "+",
        "gwk_" + 42 * "A" + "=",
        "gwk_" + 42 * "A" + "\u0660",
        "gwk_" + 42 * "A" + "\ud800",
        47 * "A",
        10**7 * "A",
        "gwk_" + 10**7 * "A",
    ],
)
def test_what_has_not_the_form_of_a_key_has_no_digest(text: str) -> None:
    assert digest(text) is None


@given(st.text())
def test_any_text_has_a_digest_or_none(text: str) -> None:
    assert digest(text) is None
    assert digest("gwk_" + text) in (
        None,
        hashlib.sha256(f"gwk_{text}".encode("utf-8", "replace")).hexdigest(),
    )
