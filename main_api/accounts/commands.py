"""What an operator does with accounts: add, list, disable, key, revoke."""

import argparse
import getpass
import json
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from main_api.accounts.api_keys import new_key
from main_api.accounts.faults import AccountsFault, shown
from main_api.accounts.fields import folded, moment, written
from main_api.accounts.file import Accounts, read
from main_api.accounts.passwords import PASSWORD_MOST, Passwords
from main_api.accounts.replacing import locked, replace
from main_api.accounts.writing import FIRST, Document, Value

_PASSWORD_LEAST = 12
# Stands in until somebody has been asked for a password that is going to be used.
_NOBODYS = "$argon2id$v=19$m=19456,t=2,p=1$" + 22 * "A" + "$" + 43 * "A"

# Prints lines.
Show = Callable[[list[str]], object]
# Tells all gateways at once that a key, or what a user was given until now, is taken back for good ("user" or
# "key", id); False when they could not be told.
Published = Callable[[str, str], bool]
_BY_THE_FILE = "gateways know once they read the file, within 5 s"


class Refused(Exception):
    """Nothing was done; the sentence says why, ``status`` is the exit status."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)


@dataclass(frozen=True, slots=True)
class Target:
    """Where accounts are changed: the file at ``path``, or nowhere, when the change is to be ``printed``.

    Raises :class:`Refused` for a file with faults, :class:`AccountsFault` for a change that would make some,
    and :class:`OSError`.
    """

    path: str | None
    printed: bool

    def draft(self, otherwise: str | None = None) -> Document:
        """Read what there is, or take ``otherwise`` where no file is."""
        try:
            return Document(read(self.path or ""))
        except FileNotFoundError:
            if otherwise is not None:
                return Document(otherwise)
            if self.path is None:
                raise Refused(2, "ACCOUNTS_FILE is not set, and is read to find whom this means") from None
            raise
        except AccountsFault as error:
            raise Refused(1, faulty(f"{self.path} has faults, mend them first", error.faults)) from None

    def change(self, edit: Callable[[Document], str], otherwise: str | None = None) -> str:
        """Change the file, unless that is to be printed; give what was changed as YAML of its own."""
        if self.printed or self.path is None:
            return edit(self.draft(otherwise))
        with locked(self.path) as path:
            document = Target(path, printed=False).draft(otherwise)
            changed = edit(document)
            replace(path, document.text)
            return changed


class _Found(NamedTuple):
    section: str
    number: int
    kind: str
    id: str


class Commands:
    """One method for each subcommand; raises what :class:`Target` raises, and says what was done."""

    def __init__(
        self, target: Target, show: Show, *, published: Published | None, clock: Callable[[], float]
    ) -> None:
        self._target = target
        self._show = show
        self._published = published
        self._clock = clock

    def add(self, options: argparse.Namespace) -> None:
        """Add a user."""
        values = {"id": f"u_{secrets.token_hex(8)}", "email": options.email, "role": options.role}
        base = self._base("roles", options.role, "[]")
        # Before somebody types a password twice for nothing.
        _added(self._target.draft(base), "users", {**values, "password": _NOBODYS})
        values["password"] = _hashed(options.password_stdin)
        changed = self._target.change(lambda document: _added(document, "users", values), base)
        self._did(f"added user {values['id']}: {options.email}, {options.role}", changed)

    def list(self, _: argparse.Namespace) -> None:
        """Print users and keys."""
        if self._target.printed:
            raise Refused(2, "--file - is for what changes the file; say --file PATH")
        self._show(["\t".join(row) + "\n" for row in _rows(self._target.draft().accounts, self._clock())])

    def disable(self, options: argparse.Namespace) -> None:
        """Shut out a user or a key, or let them in again."""
        off = not options.enable
        found, changed = self._set(options.name, user=("disabled", off), key=("disabled", off))
        self._did(f"{'disabled' if off else 'enabled'} {found.kind} {found.id}", changed)
        if off and found.kind == "user":
            self._publish(found)
        elif not self._target.printed:
            # Of a key that was published, --enable would be no news.
            _say(_BY_THE_FILE)

    def key(self, options: argparse.Namespace) -> None:
        """Make a key."""
        made = new_key()
        values: dict[str, Value] = {"id": made.id, "owner": options.owner, "digest": made.digest}
        values["scopes"] = [*dict.fromkeys(options.scope)]
        if options.plan is not None:
            values["plan"] = options.plan
        if options.expires is not None:
            values["expires"] = options.expires
            _check_future(options.expires, self._clock())
        base = self._base("plans", options.plan, "{}")
        changed = self._target.change(lambda document: _added(document, "keys", values), base)
        told = f"made key {made.id} for {options.owner}; it is shown this once"
        if self._target.printed:
            self._did(f"{told}: {made.text}", changed)
            return
        _say(told)
        try:
            self._show([f"{made.text}\n"])
        except OSError as error:
            again = f"take it back with main-api accounts revoke {made.id}, and make another"
            raise Refused(
                1, f"the key is in the file, but could not be shown ({error.strerror}); {again}"
            ) from None

    def revoke(self, options: argparse.Namespace) -> None:
        """Take back all tokens of a user, or a key."""
        # A token says in whole milliseconds when it was issued.
        until = written((int(self._clock() * 1000) + 1) / 1000)
        found, changed = self._set(options.name, user=("tokens_after", until), key=("disabled", True))
        what = f"all tokens of user {found.id} until {until}" if found.kind == "user" else f"key {found.id}"
        self._did(f"revoked {what}", changed)
        self._publish(found)

    def _base(self, section: str, name: str | None, empty: str) -> str:
        """Give what a change begins with where no file is."""
        if not self._target.printed:
            return FIRST
        # What is printed goes into a file that is not here, and has that role or plan.
        return f"{section}:\n  {json.dumps(name)}: {empty}\n" if name is not None else ""

    def _set(self, name: str, *, user: tuple[str, Value], key: tuple[str, Value]) -> tuple[_Found, str]:
        made: list[_Found] = []

        def edit(document: Document) -> str:
            found = _find(document.accounts, name)
            made.append(found)
            return document.set(found.section, found.number, *(user if found.kind == "user" else key))

        changed = self._target.change(edit)
        return made[0], changed

    def _did(self, told: str, changed: str) -> None:
        if self._target.printed:
            _say(f"{told}\nput what is printed into the file, or nothing is done")
            section = changed.partition(":")[0]
            self._show(
                [f"# In the accounts file this stands below `{section}:`, one item for each id.\n", changed]
            )
        else:
            self._show([f"{told}\n"])

    def _publish(self, found: _Found) -> None:
        if self._target.printed:
            return
        if self._published is None:
            _say(_BY_THE_FILE)
        elif self._published(found.kind, found.id):
            _say("all gateways know")
        else:
            again = "those with another copy of it do not know; repeat this when Redis is back"
            raise Refused(1, f"the file is written, but Redis is away: {_BY_THE_FILE}, and {again}")


def faulty(what: str, faults: list[str]) -> str:
    """Write the faults of a file below one sentence."""
    return "\n".join([f"{what}:", *(f"  {fault}" for fault in faults)])


def _added(document: Document, section: str, values: Mapping[str, Value]) -> str:
    place = f"{section}[{len(getattr(document.accounts, section))}]."
    try:
        return document.add(section, values)
    except AccountsFault as error:
        raise AccountsFault([fault.removeprefix(place) for fault in error.faults]) from None


def _find(accounts: Accounts, name: str) -> _Found:
    email = folded(name)
    for number, user in enumerate(accounts.users):
        if name == user.id or email == folded(user.email):
            return _Found("users", number, "user", user.id)
    for number, key in enumerate(accounts.keys):
        if name == key.id:
            return _Found("keys", number, "key", key.id)
    raise Refused(1, f"no user or key is called {shown(name)}; main-api accounts list shows who there is")


def _check_future(text: str, now: float) -> None:
    try:
        past = moment(text) <= now
    except ValueError:
        return  # told with all else that is wrong
    if past:
        raise Refused(2, "--expires is past: give a date to come")


def _hashed(from_stdin: bool) -> str:
    try:
        if from_stdin:
            password = sys.stdin.readline(PASSWORD_MOST + 2).removesuffix("\n").removesuffix("\r")
        else:
            password = getpass.getpass("Password: ")
            if getpass.getpass("The same again: ") != password:
                raise Refused(2, "the passwords are not the same; nothing was changed")
        if len(password) < _PASSWORD_LEAST:
            raise Refused(2, f"a password needs {_PASSWORD_LEAST} characters; nothing was changed")
        return Passwords(1).hash(password)
    except (EOFError, KeyboardInterrupt):
        raise Refused(1, "no password was given; nothing was changed") from None
    except ValueError as error:
        # Of a text that is none, Python's sentence would repeat a part.
        why = "that is not a text" if isinstance(error, UnicodeError) else str(error)
        raise Refused(2, f"{why}; nothing was changed") from None


def _rows(accounts: Accounts, now: float) -> Iterator[tuple[str, ...]]:
    for user in accounts.users:
        state = "disabled" if user.disabled else "active"
        yield "user", user.id, user.email, user.role, state, _time(user.tokens_after or None)
    for key in accounts.keys:
        expired = key.expires is not None and key.expires <= now
        state = "disabled" if key.disabled else "expired" if expired else "active"
        plan = key.plan.name if key.plan else "-"
        yield "key", key.id, key.owner, ",".join(sorted(key.scopes)), state, plan, _time(key.expires)


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else written(seconds)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
