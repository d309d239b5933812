"""Changes to the text of an accounts file: one entry is another one, and all else is as it was."""

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from main_api.accounts import replacing, writing
from main_api.accounts.file import Accounts, AccountsFault, parse
from main_api.accounts.replacing import locked, replace
from main_api.accounts.writing import FIRST, Document, Value

HASH = "$argon2id$v=19$m=19456,t=2,p=1$" + 22 * "A" + "$" + 43 * "B"
BOB: dict[str, Value] = {"id": "u_2", "email": "bob@example.com", "role": "reader", "password": HASH}
KEY: dict[str, Value] = {
    "id": "k_2",
    "owner": "the nightly job",
    "digest": 64 * "e",
    "scopes": ["buckets:read", "parameters:read:/database/**"],
}
ADDED_USER = f"""\
- id: u_2
  email: bob@example.com
  role: reader
  password: "{HASH}"
"""
ADDED_KEY = f"""\
- id: k_2
  owner: "the nightly job"
  digest: {64 * "e"}
  scopes: [buckets:read, "parameters:read:/database/**"]
"""

FILE = f"""\
# Who may call.

roles:   # what they may
  reader: [buckets:read, "parameters:read:/x/**"]   # most of us
  1_000: []

users:
# The first one.
- id: 0x1F     # as it was written
  email: 'ann@example.com'
  role: reader
  password: {HASH}  # changed in March

# The keys, none of a person.
keys:
- {{id: k_1, owner: 0b1, digest: {64 * "d"}, scopes: [buckets:read], expires: 2027-01-01, plan: ~}} # x
# The end.
"""


def indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def test_a_user_is_added_behind_the_others_and_every_other_line_stays() -> None:
    document = Document(FILE)

    document.add("users", BOB)

    assert document.text == FILE.replace("\n\n# The keys", f"\n{ADDED_USER}\n# The keys")
    assert document.accounts == parse(document.text)


def test_a_key_is_added_before_the_comment_at_the_end() -> None:
    document = Document(FILE)

    document.add("keys", KEY)

    assert document.text == FILE.replace("# The end.\n", f"{ADDED_KEY}# The end.\n")


def test_a_list_that_is_indented_stays_so() -> None:
    text = f"{FIRST}users:\n{indented(ADDED_USER)}"
    document = Document(text)

    document.add("keys", KEY)

    assert document.text == f"{text}keys:\n{indented(ADDED_KEY)}"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("", f"keys:\n{ADDED_KEY}"),
        ("# nobody yet\n", f"# nobody yet\nkeys:\n{ADDED_KEY}"),
        ("---\n# nobody yet\n", f"---\n# nobody yet\nkeys:\n{ADDED_KEY}"),
        ("keys:\n", f"keys:\n{ADDED_KEY}"),
        ("keys: []\nusers: []\n", f"keys:\n{ADDED_KEY}users: []\n"),
        (FIRST, f"{FIRST}keys:\n{ADDED_KEY}"),
    ],
)
def test_a_section_that_is_not_there_is_made(text: str, after: str) -> None:
    document = Document(text)

    document.add("keys", KEY)

    assert document.text == after


def test_a_field_is_set_where_it_is_and_the_comment_beside_it_stays() -> None:
    text = FILE.replace("  role: reader\n", "  disabled: true # for now\n  role: reader\n")
    document = Document(text)

    document.set("users", 0, "disabled", False)

    assert document.text == text.replace("disabled: true #", "disabled: false #")
    assert document.accounts.users[0].disabled is False


def test_a_field_that_is_not_there_is_added_to_its_entry() -> None:
    document = Document(FILE)

    document.set("users", 0, "tokens_after", "2026-11-21T00:00:00.001Z")
    document.set("keys", 0, "disabled", True)

    assert document.text == FILE.replace(
        "# changed in March\n", "# changed in March\n  tokens_after: 2026-11-21T00:00:00.001Z\n"
    ).replace("plan: ~}", "plan: ~, disabled: true}")


def test_what_was_changed_is_given_as_yaml_of_its_own() -> None:
    document = Document(FILE)

    assert document.add("users", BOB) == f"users:\n{ADDED_USER}"
    assert document.set("users", 1, "disabled", True) == f"users:\n{ADDED_USER}  disabled: true\n"
    assert document.add("keys", KEY) == f"keys:\n{ADDED_KEY}"


@pytest.mark.parametrize(
    "owner", ["no", "True", "null", "~", "12:30", "a: b", "# a", "a #b", "it's", '"', "- a", "{a", "0"]
)
def test_a_text_stays_a_text(owner: str) -> None:
    document = Document("")

    changed = document.add("keys", {**KEY, "owner": owner})

    assert document.accounts.keys[0].owner == owner
    [read] = YAML(typ="safe", pure=True).load(changed)["keys"]
    assert str(read["owner"]) == owner


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"role": "raeder"}, "users[1].role"),
        ({"email": "ANN@example.com"}, "users[1].email"),
        ({"id": "k_1"}, "keys[0].id"),
    ],
)
def test_a_change_that_would_make_a_fault_is_none(values: dict[str, Any], place: str) -> None:
    document = Document(FILE)
    before = document.accounts

    with pytest.raises(AccountsFault) as raised:
        document.add("users", {**BOB, **values})

    assert raised.value.faults[0].startswith(place)
    assert (document.text, document.accounts) == (FILE, before)


def test_a_faulty_text_is_not_taken() -> None:
    with pytest.raises(AccountsFault):
        Document("users: 3")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ann@example.com", "eve@example.com"),
        ("[buckets:read, ", "[buckets:read, gateway:operate, "),
        ("owner: 0b1", "owner: eve"),
        ("1_000", "1000"),
    ],
)
def test_a_change_that_would_change_more_is_refused(
    old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = Document(FILE)
    real = writing._dumped
    monkeypatch.setattr(writing, "_dumped", lambda *of: real(*of).replace(old, new, 1))

    for change in (
        lambda: document.add("keys", KEY),
        lambda: document.set("users", 0, "disabled", True),
    ):
        with pytest.raises(AccountsFault, match="without changing more"):
            change()
        assert document.text == FILE


def test_what_the_library_cannot_read_is_refused() -> None:
    document = Document(f"keys: [{{id: !!int k, owner: a, digest: {64 * 'd'}, scopes: []}}]")

    with pytest.raises(AccountsFault, match="without changing more"):
        document.add("keys", KEY)


_NAMES = st.from_regex(r"[ab0-3][ab0-3_-]{0,3}", fullmatch=True)
_OWNERS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
_COMMENTS = st.sampled_from(["", "# c", "  # c", "\n", "# a: b", "# - x"])


@st.composite
def files(draw: st.DrawFn) -> str:
    """Write a good file in one of many ways."""
    roles = draw(st.lists(_NAMES, min_size=1, max_size=3, unique=True))
    ids = draw(st.lists(_NAMES, max_size=4, unique=True))
    offset = draw(st.sampled_from(["", "  "]))
    lines = [draw(_COMMENTS), "roles:", *(f"  {name}: [buckets:read]" for name in roles), draw(_COMMENTS)]
    users = [name for number, name in enumerate(ids) if number % 2]
    lines += ["users:"] if users else []
    for name in users:
        entry = [f"id: {name}", f"email: {name}@b.c", f"role: {roles[0]}", f"password: '{HASH}'"]
        lines += _entry(draw, entry, offset)
    keys = [name for number, name in enumerate(ids) if not number % 2]
    lines += ["keys:"] if keys else []
    for number, name in enumerate(keys):
        owner = draw(_OWNERS).replace("'", "''")
        entry = [f"id: {name}", f"owner: '{owner}'", f"digest: {number:064x}", "scopes: [buckets:read]"]
        lines += _entry(draw, entry, offset)
    return "\n".join([*lines, draw(_COMMENTS)])


def _entry(draw: st.DrawFn, fields: list[str], offset: str) -> list[str]:
    fields += draw(st.lists(st.sampled_from(["disabled: true", "disabled: false"]), max_size=1))
    if draw(st.booleans()):
        return [f"{offset}- {{{', '.join(fields)}}} {draw(_COMMENTS)}"]
    first, *others = fields
    return [f"{offset}- {first}", *(f"{offset}  {each} {draw(_COMMENTS)}" for each in others)]


def comments(text: str) -> list[str]:
    return sorted(
        line.partition("#")[2].strip() for line in text.splitlines() if " #" in line or line.startswith("#")
    )


@settings(max_examples=30, deadline=None)
@given(files(), _OWNERS, st.booleans())
def test_whatever_is_added_or_set_everything_else_is_as_before(text: str, owner: str, first: bool) -> None:
    document = Document(text)
    before = document.accounts

    document.add("users", {**BOB, "id": "new-u", "email": "new@b.c", "role": next(iter(before.roles))})
    document.add("keys", {**KEY, "id": "new-k", "owner": owner})
    after = parse(document.text)

    assert after == Accounts(
        (*before.users, after.users[-1]), (*before.keys, after.keys[-1]), before.roles, before.plans
    )
    assert (after.users[-1].email, after.keys[-1].owner) == ("new@b.c", owner)
    number = 0 if first else len(after.keys) - 1
    document.set("keys", number, "disabled", True)
    assert [key.disabled for key in parse(document.text).keys] == [
        True if each == number else key.disabled for each, key in enumerate(after.keys)
    ]
    assert comments(document.text) == comments(text)


# Files.


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "accounts.yaml")

    replace(path, "a\u00e4\r\n")

    assert Path(path).read_bytes() == "a\u00e4\r\n".encode()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(tmp_path) == ["accounts.yaml"]


def test_a_file_keeps_its_mode_and_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_text("before")
    path.chmod(0o640)
    before = path.stat()

    replace(str(path), "after")

    assert path.read_text() == "after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_ino != before.st_ino
    assert (path.stat().st_uid, path.stat().st_gid) == (before.st_uid, before.st_gid)


def test_a_file_of_somebody_else_stays_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_text("before")
    given: list[tuple[int, int]] = []
    real = os.stat

    def foreign(name: Any, **options: Any) -> Any:
        found = real(name, **options)
        return os.stat_result((*found[:4], 4711, 4712, *found[6:])) if name == str(path) else found

    monkeypatch.setattr(replacing.os, "stat", foreign)
    monkeypatch.setattr(replacing.os, "fchown", lambda _, *owner: given.append(owner))

    replace(str(path), "after")

    assert given == [(4711, 4712)]


@pytest.mark.parametrize("name", ["fsync", "replace", "fchmod"])
def test_what_fails_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(replacing.os, name, fail)

    with pytest.raises(OSError, match="No space"):
        replace(str(path), "after")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["accounts.yaml"]


def test_the_file_behind_a_symlink_is_meant(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.yaml").symlink_to("real/accounts.yaml")

    with locked(str(tmp_path / "link.yaml")) as path:
        replace(path, "text")

    assert (tmp_path / "link.yaml").is_symlink()
    assert (tmp_path / "real" / "accounts.yaml").read_text() == "text"


def test_two_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_text("0")
    begin = threading.Barrier(4)

    def count() -> None:
        begin.wait(5)
        for _ in range(10):
            with locked(str(path)) as found:
                replace(found, str(int(path.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert path.read_text() == "40"
    assert os.listdir(tmp_path) == ["accounts.yaml"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(str(tmp_path / "no" / "accounts.yaml")):
        pass
