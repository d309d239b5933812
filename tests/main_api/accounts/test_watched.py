"""The accounts file is read again when it changes, and a faulty one takes nothing away."""

import logging
import os
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from main_api.accounts import watched
from main_api.accounts.file import Accounts, AccountsFault
from main_api.accounts.watched import WatchedAccounts

NUMBERS = count(1)


def roles(*names: str) -> str:
    return "roles: {" + ", ".join(f"{name}: []" for name in names) + "}\n"


def in_place(path: Path, text: str) -> None:
    """Write a file as an editor does that keeps it; each time at a later moment."""
    path.write_text(text)
    later = 10**18 + next(NUMBERS) * 10**9
    os.utime(path, ns=(later, later))


def replaced(path: Path, text: str) -> None:
    """Put another file in its place."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "accounts.yaml"
    in_place(path, roles("first"))
    return path


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, watched.__name__):
        yield caplog


def test_it_begins_with_what_is_there(path: Path) -> None:
    accounts = WatchedAccounts(str(path))

    assert accounts.current.roles.keys() == {"first"}
    assert accounts.fault is None


@pytest.mark.parametrize("text", ["roles: [", "roles: {a: [nothing]}"])
def test_it_does_not_begin_with_a_fault(path: Path, text: str) -> None:
    path.write_text(text)

    with pytest.raises(AccountsFault):
        WatchedAccounts(path)


def test_it_does_not_begin_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WatchedAccounts(tmp_path / "absent")


@pytest.mark.parametrize("text", [None, "roles: [", "roles: {a: [nothing]}"])
def test_with_something_to_begin_with_it_waits_for_a_good_file(
    path: Path, text: str | None, lines: pytest.LogCaptureFixture
) -> None:
    path.unlink()
    if text is not None:
        path.write_text(text)
    nobody = Accounts()

    accounts = WatchedAccounts(path, at_first=nobody)
    accounts.look()
    assert accounts.current is nobody
    assert accounts.fault is not None
    assert len([line for line in lines.records if line.levelno == logging.WARNING]) == 1

    in_place(path, roles("second"))
    for _ in range(2):
        accounts.look()
    assert accounts.current.roles.keys() == {"second"}
    assert accounts.fault is None


def test_a_file_that_was_replaced_is_taken_at_once(path: Path, lines: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[Accounts, Accounts]] = []
    accounts = WatchedAccounts(path, changed=lambda *both: seen.append(both))
    first = accounts.current
    replaced(path, roles("second", "third"))

    accounts.look()
    accounts.look()

    assert accounts.current.roles.keys() == {"second", "third"}
    assert first.roles.keys() == {"first"}
    assert seen == [(first, accounts.current)]
    assert [(each.levelname, each.getMessage()) for each in lines.records] == [
        ("INFO", f"accounts in {path}: changed, 0 users, 0 keys")
    ]


def test_a_file_that_is_written_in_place_is_taken_when_it_has_been_the_same_for_two_looks(path: Path) -> None:
    accounts = WatchedAccounts(path)

    # Half of it is YAML too.
    for half in ("", roles("second")):
        in_place(path, half)
        accounts.look()
        assert accounts.current.roles.keys() == {"first"}
    in_place(path, roles("second", "third"))
    accounts.look()
    assert accounts.current.roles.keys() == {"first"}
    accounts.look()
    assert accounts.current.roles.keys() == {"second", "third"}


def test_a_config_map_that_changes_by_its_symlink_is_taken(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "accounts.yaml").write_text(roles(f"v{version}"))
        os.utime(tmp_path / version / "accounts.yaml", ns=(10**18, 10**18))
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "accounts.yaml").symlink_to("..data/accounts.yaml")
    accounts = WatchedAccounts(tmp_path / "accounts.yaml")
    (tmp_path / "..new").symlink_to("2")
    (tmp_path / "..new").replace(tmp_path / "..data")

    accounts.look()

    assert accounts.current.roles.keys() == {"v2"}


def test_a_faulty_file_leaves_the_last_good_one_and_is_told_once(
    path: Path, lines: pytest.LogCaptureFixture
) -> None:
    accounts = WatchedAccounts(path)
    good = accounts.current
    replaced(path, "roles: {a: [x]}")

    for _ in range(3):
        accounts.look()

    assert accounts.current is good
    assert accounts.fault is not None
    assert accounts.fault.startswith("roles.a[0]: ")
    [line] = lines.records
    assert line.levelname == "WARNING"
    assert accounts.fault in line.getMessage()


def test_the_same_fault_in_another_text_is_not_told_again_and_another_one_is(
    path: Path, lines: pytest.LogCaptureFixture
) -> None:
    accounts = WatchedAccounts(path)
    for text in ("roles: 1", "roles: 1 # the same", "plans: 1", "plans: 1 # the same"):
        replaced(path, text)
        accounts.look()

    assert [each.getMessage().split(": ")[1] for each in lines.records] == ["roles", "plans"]


def test_many_faults_are_one_line_of_bounded_length(path: Path, lines: pytest.LogCaptureFixture) -> None:
    accounts = WatchedAccounts(path)
    replaced(path, "users: [" + "x, " * 1000 + "]")

    accounts.look()

    [line] = lines.records
    assert len(line.getMessage()) < 2000
    assert line.getMessage().endswith("; and 96 more")


def test_a_faulty_file_is_not_parsed_at_every_look(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = WatchedAccounts(path)
    replaced(path, "roles: 1")
    accounts.look()
    monkeypatch.setattr(watched, "read", lambda _: pytest.fail("read again"))

    accounts.look()

    assert accounts.fault is not None


def test_a_mended_file_is_good_again(path: Path, lines: pytest.LogCaptureFixture) -> None:
    accounts = WatchedAccounts(path)
    replaced(path, "roles: 1")
    accounts.look()
    replaced(path, roles("mended"))
    accounts.look()

    assert accounts.current.roles.keys() == {"mended"}
    assert accounts.fault is None
    assert lines.records[-1].getMessage() == f"accounts in {path}: good again, 0 users, 0 keys"


def test_a_file_that_is_absent_for_a_while_leaves_what_was_known(
    path: Path, lines: pytest.LogCaptureFixture
) -> None:
    seen: list[object] = []
    accounts = WatchedAccounts(path, changed=lambda *both: seen.append(both))
    good = accounts.current
    aside = path.rename(path.with_suffix(".aside"))
    for _ in range(3):
        accounts.look()
    assert accounts.current is good
    assert accounts.fault == "No such file or directory"
    aside.rename(path)

    accounts.look()
    accounts.look()

    # The same text: nothing has changed.
    assert accounts.current is good
    assert accounts.fault is None
    assert seen == []
    assert [each.levelname for each in lines.records] == ["WARNING", "INFO"]


def test_a_file_that_comes_back_half_written_is_waited_for(path: Path) -> None:
    accounts = WatchedAccounts(path)
    path.unlink()
    accounts.look()
    in_place(path, "")
    accounts.look()
    in_place(path, roles("second"))
    accounts.look()

    assert accounts.current.roles.keys() == {"first"}
    accounts.look()
    assert accounts.current.roles.keys() == {"second"}


@pytest.mark.parametrize("what", ["folder", "pipe", "binary", "large", "loop"])
def test_what_cannot_be_read_leaves_what_was_known(path: Path, what: str) -> None:
    accounts = WatchedAccounts(path)
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path)
    else:
        path.write_bytes(b"\xff" if what == "binary" else b"#" * (4 * 1024**2 + 1))

    accounts.look()
    accounts.look()

    assert accounts.current.roles.keys() == {"first"}
    assert accounts.fault is not None


def test_the_same_text_written_again_changes_nothing(path: Path, lines: pytest.LogCaptureFixture) -> None:
    accounts = WatchedAccounts(path)
    good = accounts.current
    replaced(path, roles("first"))

    accounts.look()

    assert accounts.current is good
    assert lines.records == []


def test_no_secret_is_in_the_log(path: Path, lines: pytest.LogCaptureFixture) -> None:
    accounts = WatchedAccounts(path)
    replaced(path, "users: [{id: a, email: a@b, role: r, password: canary-password}]")

    accounts.look()

    assert accounts.fault is not None
    assert "canary" not in lines.text + accounts.fault


def test_the_thread_looks_until_it_is_stopped(path: Path) -> None:
    changed = threading.Event()
    accounts = WatchedAccounts(path, interval=0.001, changed=lambda *_: changed.set())
    accounts.start()
    replaced(path, roles("second"))

    assert changed.wait(5)
    accounts.stop()

    assert accounts.current.roles.keys() == {"second"}
    assert not any(each.name == "accounts" for each in threading.enumerate())


def test_an_error_of_who_is_told_does_not_end_the_looking(
    path: Path, lines: pytest.LogCaptureFixture
) -> None:
    told = threading.Semaphore(0)

    def fail(*_: object) -> None:
        told.release()
        raise RuntimeError

    accounts = WatchedAccounts(path, interval=0.001, changed=fail)
    accounts.start()
    for name in ("second", "third"):
        replaced(path, roles(name))
        assert told.acquire(timeout=5)
    accounts.stop()

    assert accounts.current.roles.keys() == {"third"}


def test_one_that_was_never_started_can_be_stopped(path: Path) -> None:
    WatchedAccounts(path).stop()
