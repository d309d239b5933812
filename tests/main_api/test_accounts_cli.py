"""``main-api accounts``."""

import getpass
import io
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from main_api import accounts_cli, cli
from main_api.accounts import commands
from main_api.accounts.api_keys import digest
from main_api.accounts.file import Accounts, parse
from main_api.accounts.passwords import Passwords

PASSWORD = "canary horse battery"
NOW = 1_795_219_200.5  # 2026-11-21T00:00:00.500Z
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
FILE = f"""\
# ours
roles: {{reader: [buckets:read]}}  # one is enough
plans: {{gold: {{}}}}
users:
- {{id: u_1, email: ann@example.com, role: reader, password: "{CHEAP.hash("x")}"}}  # Ann
keys:
- {{id: k_1, owner: billing, digest: {64 * "d"}, scopes: [buckets:read], expires: 2026-01-01}}
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "accounts.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is typed at the prompts for passwords."""
    left: list[str] = [PASSWORD, PASSWORD]

    def ask(_: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    monkeypatch.setattr(getpass, "getpass", ask)
    return left


@pytest.fixture
def told() -> list[tuple[str, str]]:
    """What was told to all gateways."""
    return []


@pytest.fixture
def run(
    path: Path,
    typed: list[str],
    told: list[tuple[str, str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Run ``main-api accounts`` with ACCOUNTS_FILE; give the status, and what was printed."""
    monkeypatch.setattr(commands, "Passwords", lambda at_once: Passwords(at_once, hasher=CHEAP))

    def published(kind: str, name: str) -> bool:
        # The file comes first: a gateway that reads it now must find it.
        assert path.read_text() != FILE
        told.append((kind, name))
        return True

    def run(
        *arguments: str, environ: dict[str, str] | None = None, hook: Any = published
    ) -> tuple[int, str, str]:
        options = cli._parser().parse_args(["accounts", *arguments])
        status = accounts_cli.run(
            options,
            {"ACCOUNTS_FILE": str(path)} if environ is None else environ,
            cli._print,
            published=hook,
            clock=lambda: NOW,
        )
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert PASSWORD not in printed.out + printed.err
        return status, printed.out, printed.err

    return run


def read(path: Path) -> Accounts:
    return parse(path.read_text())


# add.


def test_add_makes_a_user_with_the_password_that_was_typed_twice(
    run: Run, path: Path, typed: list[str]
) -> None:
    status, out, err = run("add", "bob@example.com", "--role", "reader")

    bob = read(path).users[1]
    assert (status, out, err) == (0, f"added user {bob.id}: bob@example.com, reader\n", "")
    assert re.fullmatch("u_[0-9a-f]{16}", bob.id)
    assert (bob.email, bob.role, bob.disabled) == ("bob@example.com", "reader", False)
    assert CHEAP.verify(bob.password, PASSWORD)
    assert typed == []
    assert path.read_text().startswith(FILE[: FILE.index("keys:")])


def test_add_hashes_by_argon2id_with_the_costs_of_a_login(
    path: Path, typed: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCOUNTS_FILE", str(path))
    monkeypatch.setenv("PORT", "wrong, and not looked at")

    assert cli.main(["accounts", "add", "bob@example.com", "--role", "reader"]) == 0

    assert read(path).users[1].password.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in path.read_text()


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\nmore\n"])
def test_add_takes_the_first_line_of_standard_input(
    run: Run, path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD + end))

    assert run("add", "bob@example.com", "--role", "reader", "--password-stdin")[0] == 0

    assert CHEAP.verify(read(path).users[1].password, PASSWORD)


@pytest.mark.parametrize(
    ("first", "second", "status", "sentence"),
    [
        (PASSWORD, PASSWORD + ".", 2, "not the same"),
        ("eleven char", "eleven char", 2, "12 characters"),
        (1025 * "x", 1025 * "x", 2, "1024 characters"),
        (12 * "\ud800", 12 * "\ud800", 2, "Unicode"),
        (None, None, 1, "no password was given"),
        (PASSWORD, None, 1, "no password was given"),
    ],
)
def test_a_password_that_is_none_changes_nothing(
    run: Run, path: Path, typed: list[str], first: str | None, second: str | None, status: int, sentence: str
) -> None:
    typed[:] = [each for each in (first, second) if each is not None]

    got, out, err = run("add", "bob@example.com", "--role", "reader")

    assert (got, out) == (status, "")
    assert sentence in err
    assert "nothing was changed" in err
    assert path.read_text() == FILE


@pytest.mark.parametrize("given", ["", "short\n", "\n" + PASSWORD, 2000 * "x" + "\n"])
def test_a_line_of_input_that_is_no_password_changes_nothing(
    run: Run, path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(given))

    assert run("add", "bob@example.com", "--role", "reader", "--password-stdin")[0] == 2
    assert path.read_text() == FILE


def test_a_prompt_that_is_interrupted_changes_nothing(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(getpass, "getpass", interrupt)

    assert run("add", "bob@example.com", "--role", "reader")[0] == 1
    assert path.read_text() == FILE


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        (
            ("bob@example.com", "--role", "raeder"),
            ["role: 'raeder' is not in `roles`", "did you mean 'reader'?"],
        ),
        (("bob", "--role", "reader"), ["email: an address such as"]),
        (("ANN@example.com", "--role", "reader"), ["email: the same as users[0].email"]),
        (("ann@example.com", "--role", "raeder"), ["email: the same", "role: 'raeder'"]),
        (("bob@example.com", "--role", "a: b"), ["role: the name of one of `roles` needed"]),
    ],
)
def test_wrong_arguments_are_told_before_a_password_is_asked_for(
    run: Run, path: Path, typed: list[str], arguments: tuple[str, ...], sentences: list[str]
) -> None:
    status, out, err = run("add", *arguments)

    assert (status, out) == (2, "")
    assert all(f"  {each}" in err or each in err for each in sentences)
    assert "users[1]" not in err
    assert len(typed) == 2
    assert path.read_text() == FILE


def test_the_first_user_makes_the_file_and_three_roles(run: Run, path: Path) -> None:
    path.unlink()

    assert run("add", "bob@example.com", "--role", "admin")[0] == 0

    accounts = read(path)
    assert accounts.roles == {
        "reader": {"buckets:read", "parameters:read"},
        "operator": {"gateway:operate"},
        "admin": {"buckets:read", "parameters:read", "parameters:decrypt", "gateway:operate"},
    }
    assert [user.email for user in accounts.users] == ["bob@example.com"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_user_who_was_added_while_the_password_was_typed_is_not_lost(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FILE.replace("u_1", "u_9").replace("ann@", "eve@")

    def ask(_: str) -> str:
        path.write_text(other)
        return PASSWORD

    monkeypatch.setattr(getpass, "getpass", ask)

    assert run("add", "bob@example.com", "--role", "reader")[0] == 0
    assert [user.email for user in read(path).users] == ["eve@example.com", "bob@example.com"]


def test_a_hook_is_not_called_for_what_takes_nothing_back(run: Run, told: list[tuple[str, str]]) -> None:
    run("add", "bob@example.com", "--role", "reader")
    run("key", "x", "--scope", "buckets:read")
    run("disable", "k_1", "--enable")

    assert told == []


# list.


def test_list_is_tab_separated_and_has_no_hash(run: Run, path: Path) -> None:
    run("revoke", "u_1")
    run("key", "shop", "--scope", "parameters:read", "--scope", "buckets:read", "--plan", "gold")
    made = read(path).keys[1].id

    status, out, err = run("list")

    assert (status, err) == (0, "")
    assert [line.split("\t") for line in out.splitlines()] == [
        ["user", "u_1", "ann@example.com", "reader", "active", "2026-11-21T00:00:00.501Z"],
        ["key", "k_1", "billing", "buckets:read", "expired", "-", "2026-01-01T00:00:00.000Z"],
        ["key", made, "shop", "buckets:read,parameters:read", "active", "gold", "-"],
    ]


def test_list_says_who_is_disabled(run: Run) -> None:
    run("disable", "u_1")
    run("disable", "k_1")

    assert [line.split("\t")[4] for line in run("list")[1].splitlines()] == ["disabled", "disabled"]


# disable and revoke.


@pytest.mark.parametrize("name", ["u_1", "ann@example.com", "ANN@Example.com"])
def test_disable_shuts_a_user_out_and_enable_undoes_it(
    run: Run, path: Path, told: list[tuple[str, str]], name: str
) -> None:
    assert run("disable", name) == (0, "disabled user u_1\n", "all gateways know\n")
    assert read(path).users[0].disabled is True
    assert read(path).users[0].tokens_after == 0
    assert told == [("user", "u_1")]

    assert run("disable", name, "--enable")[:2] == (0, "enabled user u_1\n")
    assert read(path).users[0].disabled is False
    assert path.read_text().count("# ") == FILE.count("# ")


def test_revoke_takes_back_all_tokens_that_a_user_has(
    run: Run, path: Path, told: list[tuple[str, str]]
) -> None:
    until = "2026-11-21T00:00:00.501Z"

    assert run("revoke", "ann@example.com")[:2] == (0, f"revoked all tokens of user u_1 until {until}\n")

    user = read(path).users[0]
    # One of this very millisecond too.
    assert user.tokens_after > NOW
    assert user.tokens_after == pytest.approx(NOW + 0.001)
    assert user.disabled is False
    assert told == [("user", "u_1")]


def test_revoke_takes_back_a_key(run: Run, path: Path, told: list[tuple[str, str]]) -> None:
    assert run("revoke", "k_1") == (0, "revoked key k_1\n", "all gateways know\n")

    assert read(path).keys[0].disabled is True
    assert told == [("key", "k_1")]


def test_when_not_all_can_be_told_it_is_1_and_the_file_is_written(run: Run, path: Path) -> None:
    status, out, err = run("revoke", "k_1", hook=lambda *_: False)

    assert (status, out) == (1, "revoked key k_1\n")
    assert "the file is written, but Redis is away" in err
    assert "within 5 s" in err
    assert read(path).keys[0].disabled is True


@pytest.mark.parametrize("name", ["u_1", "k_1"])
@pytest.mark.parametrize("command", ["disable", "revoke"])
def test_without_a_hook_it_says_that_gateways_go_by_the_file(run: Run, command: str, name: str) -> None:
    status, _, err = run(command, name, hook=None)

    assert (status, err) == (0, "gateways know once they read the file, within 5 s\n")


def test_a_key_that_may_be_enabled_again_is_not_taken_back_for_good(
    run: Run, path: Path, told: list[tuple[str, str]]
) -> None:
    told_by_file = "gateways know once they read the file, within 5 s\n"
    assert run("disable", "k_1") == (0, "disabled key k_1\n", told_by_file)
    assert run("disable", "k_1", "--enable") == (0, "enabled key k_1\n", told_by_file)

    assert read(path).keys[0].disabled is False
    assert told == []


@pytest.mark.parametrize("command", ["disable", "revoke"])
@pytest.mark.parametrize("name", ["eve@example.com", "u_2", "", "gwk_" + 43 * "c"])
def test_who_is_not_there_is_1_and_nothing_is_changed(
    run: Run, path: Path, told: list[tuple[str, str]], command: str, name: str
) -> None:
    status, out, err = run(command, name)

    assert (status, out) == (1, "")
    assert "main-api accounts list" in err
    assert 43 * "c" not in err
    assert path.read_text() == FILE
    assert told == []


# key.


def test_key_prints_the_key_and_nothing_else(run: Run, path: Path) -> None:
    status, out, err = run(
        "key", "the shop", "--scope", "buckets:read", "--scope", "parameters:read:/shop/**", "--scope",
        "buckets:read", "--plan", "gold", "--expires", "2027-01-01",
    )  # fmt: skip

    made = read(path).keys[1]
    assert status == 0
    assert re.fullmatch(r"gwk_[A-Za-z0-9_-]{43}\n", out)
    assert digest(out.strip()) == made.digest
    assert made.id in err
    assert out.strip() not in err + path.read_text()
    assert made.scopes == {"buckets:read", "parameters:read:/shop/**"}
    assert (made.owner, made.plan, made.expires) == ("the shop", read(path).plans["gold"], 1_798_761_600.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--scope", "bucket:read"), "scopes[0]: one of buckets:read"),
        (("--scope", "buckets:read", "--plan", "glod"), "plan: 'glod' is not in `plans`"),
        (("--scope", "buckets:read", "--expires", "soon"), "expires: a date such as 2027-01-01"),
        (("--scope", "buckets:read", "--expires", "2026-11-21"), "--expires is past"),
    ],
)
def test_wrong_arguments_of_key_are_2(
    run: Run, path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    status, out, err = run("key", "shop", *arguments)

    assert (status, out) == (2, "")
    assert sentence in err
    assert "keys[1]" not in err
    assert path.read_text() == FILE


def test_a_key_that_cannot_be_shown_is_said_to_be_there(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: list[str]) -> None:
        raise OSError(28, "No space left on device")

    options = cli._parser().parse_args(["accounts", "key", "shop", "--scope", "buckets:read"])

    assert accounts_cli.run(options, {"ACCOUNTS_FILE": str(path)}, full) == 1
    assert f"main-api accounts revoke {read(path).keys[1].id}" in capsys.readouterr().err


# --file.


def test_file_is_taken_before_accounts_file(run: Run, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"

    assert run("add", "bob@example.com", "--role", "reader", "--file", str(other))[0] == 0

    assert path.read_text() == FILE
    assert len(read(other).users) == 1


def test_a_dash_prints_the_user_and_touches_nothing(run: Run, path: Path, tmp_path: Path) -> None:
    status, out, err = run("add", "bob@example.com", "--role", "reader", "--file", "-")

    comment, *_ = out.splitlines()
    assert status == 0
    assert comment.startswith("# ")
    assert "`users:`" in comment
    [bob] = parse("roles: {reader: []}\n" + out).users
    assert CHEAP.verify(bob.password, PASSWORD)
    assert bob.id in err
    assert path.read_text() == FILE
    assert [each.name for each in tmp_path.iterdir()] == ["accounts.yaml"]


def test_a_dash_prints_the_key_to_the_other_stream(run: Run, path: Path) -> None:
    status, out, err = run("key", "shop", "--scope", "buckets:read", "--file", "-")

    [made] = parse(out).keys
    [key] = re.findall(r"gwk_[A-Za-z0-9_-]{43}", err)
    assert status == 0
    assert digest(key) == made.digest
    assert "gwk_" not in out
    assert path.read_text() == FILE


@pytest.mark.parametrize("command", ["disable", "revoke"])
def test_a_dash_prints_the_whole_changed_entry_and_tells_nobody(
    run: Run, path: Path, told: list[tuple[str, str]], command: str
) -> None:
    status, out, _ = run(command, "k_1", "--file", "-")

    [key] = parse(out).keys
    assert (status, key.id, key.owner, key.disabled, key.expires) == (
        0,
        "k_1",
        "billing",
        True,
        1_767_225_600.0,
    )
    assert path.read_text() == FILE
    assert told == []


def test_a_dash_checks_against_the_file_that_there_is(run: Run) -> None:
    assert run("add", "ann@example.com", "--role", "raeder", "--file", "-")[0] == 2
    assert run("key", "shop", "--scope", "buckets:read", "--plan", "x", "--file", "-")[0] == 2


def test_a_dash_without_a_file_takes_roles_and_plans_as_they_are_named(run: Run) -> None:
    user = run("add", "bob@example.com", "--role", "custom", "--file", "-", environ={})
    key = run("key", "shop", "--scope", "buckets:read", "--plan", "mine", "--file", "-", environ={})

    assert (user[0], key[0]) == (0, 0)
    assert parse("roles: {custom: []}\n" + user[1]).users[0].role == "custom"
    assert parse("plans: {mine: {}}\n" + key[1]).keys[0].plan is not None


@pytest.mark.parametrize("role", ["a: b", "*", "\x00", "x" * 2000, "a\nb: []"])
def test_a_dash_with_a_name_that_is_none_is_2(run: Run, role: str) -> None:
    assert run("add", "bob@example.com", "--role", role, "--file", "-", environ={})[0] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("disable", "u_1", "--file", "-"), "ACCOUNTS_FILE is not set"),
        (("revoke", "u_1", "--file", "-"), "ACCOUNTS_FILE is not set"),
        (("list", "--file", "-"), "say --file PATH"),
        (("list",), "ACCOUNTS_FILE is not set; set it, or say --file PATH"),
        (("add", "a@b", "--role", "r", "--file", ""), "ACCOUNTS_FILE is not set"),
    ],
)
def test_without_a_file_it_says_how_to_name_one(run: Run, arguments: tuple[str, ...], sentence: str) -> None:
    status, out, err = run(*arguments, environ={"ACCOUNTS_FILE": " "})

    assert (status, out) == (2, "")
    assert sentence in err


# Files that are not as they should be.


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("add", "b@c", "--role", "reader"),
        ("disable", "u_1"),
        ("key", "x", "--scope", "buckets:read"),
        ("key", "x", "--scope", "buckets:read", "--file", "-"),
        ("revoke", "u_1"),
    ],
)
def test_a_faulty_file_is_left_alone_and_its_faults_are_told(
    run: Run, path: Path, told: list[tuple[str, str]], arguments: tuple[str, ...]
) -> None:
    faulty = FILE.replace("role: reader", "role: raeder").replace("billing", "''")
    path.write_text(faulty)

    status, out, err = run(*arguments)

    assert (status, out) == (1, "")
    assert "mend them first" in err
    assert "users[0].role: " in err
    assert "keys[0].owner: " in err
    assert path.read_text() == faulty
    assert told == []


@pytest.mark.parametrize("command", [("list",), ("disable", "u_1"), ("revoke", "k_1")])
def test_a_file_that_is_not_there_is_1(run: Run, path: Path, command: tuple[str, ...]) -> None:
    path.unlink()

    status, out, err = run(*command)

    assert (status, out) == (1, "")
    assert f"{path}: No such file or directory" in err


def test_a_file_that_cannot_be_written_is_1_and_nobody_is_told(
    run: Run, path: Path, told: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(commands, "replace", fail)

    for arguments in (("revoke", "k_1"), ("key", "x", "--scope", "buckets:read")):
        status, out, err = run(*arguments)
        assert (status, out) == (1, "")
        assert "Read-only file system" in err
        assert "--file -" in err
    assert path.read_text() == FILE
    assert told == []


def test_no_hash_or_digest_is_ever_printed_of_a_file(run: Run, path: Path) -> None:
    stored = read(path).users[0].password
    printed = [
        run(*arguments)
        for arguments in (
            ("list",),
            ("disable", "u_1"),
            ("revoke", "k_1"),
            ("revoke", "u_1"),
            ("disable", "nobody"),
        )
    ]
    path.write_text(FILE.replace("m=8", "m=9999999").replace(64 * "d", 63 * "d"))
    printed.append(run("list"))

    assert stored.rpartition("$")[2] not in str(printed)
    assert 63 * "d" not in str(printed)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["add", "--help"], 0),
        (["list", "--help"], 0),
        (["disable", "--help"], 0),
        (["key", "--help"], 0),
        (["revoke", "--help"], 0),
        ([], 2),
        (["x"], 2),
        (["add"], 2),
        (["add", "a@b"], 2),
        (["add", "a@b", "--role", "r", "--password", "x"], 2),
        (["disable"], 2),
        (["key", "x"], 2),
        (["key", "--scope", "buckets:read"], 2),
        (["revoke"], 2),
    ],
)
def test_help_is_0_and_what_is_no_command_is_2(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["accounts", *arguments])

    printed = capsys.readouterr()
    assert ended.value.code == status
    assert "usage: main-api" in printed.out + printed.err
    if status == 0:
        for word in ("0 when it is done", "1 when", "2 for", "file"):
            assert word in printed.out
