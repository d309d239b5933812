"""The accounts file: roles, plans, users and API keys, in YAML.

::

    roles:                  # name: scopes
      reader: [buckets:read, "parameters:read:/database/**"]
    plans:                  # name: what a key of this plan may use
      standard: {rate: 600 per minute, burst: 20 per second, quota: 100000 per month}
    users:
      - {id: u_3f9, email: ann@example.com, role: reader, password: "$argon2id$...", disabled: false,
         tokens_after: 2026-11-21T00:00:00Z}
    keys:
      - {id: k_8d2, owner: billing, digest: <SHA-256>, scopes: [buckets:read], plan: standard,
         expires: 2027-01-01, disabled: false}

Every section may be missing; so may ``disabled``, ``tokens_after``, ``plan`` and ``expires``. A date is the
moment at which it begins, 00:00 UTC. No two users and keys have the same id.
"""

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from marshmallow import Schema, ValidationError

from main_api.accounts.entries import Accounts, ApiKey, User
from main_api.accounts.faults import AccountsFault, Faults, at, shown, suggestion
from main_api.accounts.fields import (
    IDENTIFIER,
    KeyFields,
    PlanFields,
    UserFields,
    folded,
    identifier,
    scopes,
)
from main_api.accounts.yaml_values import BYTES_MOST, values
from main_api.exchange import Plan

__all__ = ["Accounts", "AccountsFault", "ApiKey", "User", "parse", "read"]

# Names that a fault lists.
_LISTED_MOST = 10
SECTIONS = ("roles", "plans", "users", "keys")


def parse(text: str) -> Accounts:
    """Read the text of an accounts file. Raises :class:`AccountsFault` with all that is wrong."""
    faults = Faults()
    accounts = _Reading(values(text, faults), faults).accounts()
    faults.end()
    return accounts


def read(path: str | os.PathLike[str]) -> str:
    """Give the text of a file. Raises :class:`OSError`, or :class:`AccountsFault` when it is none."""
    # A pipe would have whoever opens it wait.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise AccountsFault(["not a file"])
    with Path(path).open("rb") as file:
        data = file.read(BYTES_MOST + 1)
    if len(data) > BYTES_MOST:
        raise AccountsFault([f"more than {BYTES_MOST // 1024**2} MiB"])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AccountsFault([f"line {line}: not UTF-8, save it as UTF-8"]) from None


class _Reading:
    """One pass over what was written; says to ``faults`` what is wrong and leaves that out."""

    def __init__(self, written: Any, faults: Faults) -> None:
        self._faults = faults
        self._sections = self._mapping(
            "", {} if written is None else written, "`roles`, `plans`, `users`, `keys`"
        )
        self._unknown(self._sections, SECTIONS, "")
        self._seen: dict[tuple[str, str], str] = {}

    def accounts(self) -> Accounts:
        """Read all sections."""
        roles = dict(self._roles())
        plans = dict(self._plans())
        users = tuple(self._users(roles))
        return Accounts(users, tuple(self._keys(plans)), roles, plans)

    def _roles(self) -> Iterator[tuple[str, frozenset[str]]]:
        field = scopes()
        for name, written, where in self._named("roles"):
            try:
                yield name, frozenset(field.deserialize(written))
            except ValidationError as error:
                self._told(where, error.messages)
                # The role is there: whoever has it is not at fault.
                yield name, frozenset()

    def _plans(self) -> Iterator[tuple[str, Plan]]:
        schema = PlanFields()
        for name, written, where in self._named("plans"):
            yield name, Plan(name, **(self._loaded(schema, written, where) or {}))

    def _users(self, roles: Mapping[str, object]) -> Iterator[User]:
        schema = UserFields()
        for written, where in self._listed("users"):
            found = self._loaded(schema, written, where, once=("id", "email"), named=("role", "roles", roles))
            if found is not None:
                yield User(**{**found, "tokens_after": found["tokens_after"] or 0.0})

    def _keys(self, plans: Mapping[str, Plan]) -> Iterator[ApiKey]:
        schema = KeyFields()
        for written, where in self._listed("keys"):
            found = self._loaded(
                schema, written, where, once=("id", "digest"), named=("plan", "plans", plans)
            )
            if found is not None:
                plan = plans[found["plan"]] if found["plan"] is not None else None
                yield ApiKey(**{**found, "scopes": frozenset(found["scopes"]), "plan": plan})

    def _named(self, section: str) -> Iterator[tuple[str, Any, str]]:
        written = self._sections.get(section)
        entries = {} if written is None else self._mapping(section, written, "names")
        for name, value in entries.items():
            where = at(section, name)
            try:
                yield identifier(name), value, where
            except ValueError:
                self._faults.add(where, f"as a name {IDENTIFIER}")

    def _listed(self, section: str) -> Iterator[tuple[Any, str]]:
        written = self._sections.get(section)
        if isinstance(written, list):
            for number, value in enumerate(written):
                yield value, at(section, number)
        elif written is not None:
            self._faults.add(section, f"a list needed, each item begins with -, got {shown(written)}")

    def _mapping(self, where: str, written: Any, of: str) -> dict[str, Any]:
        if isinstance(written, dict):
            return written
        self._faults.add(where, f"a mapping of {of} needed, got {shown(written)}")
        return {}

    def _loaded(
        self,
        schema: Schema,
        written: Any,
        where: str,
        *,
        once: tuple[str, ...] = (),
        named: tuple[str, str, Mapping[str, object]] | None = None,
    ) -> dict[str, Any] | None:
        """Give the fields of one entry, None when one of them is wrong.

        No other entry may have the same in the fields ``once``; the one ``named`` first is the name of
        something in a section.
        """
        if not isinstance(written, dict):
            self._faults.add(where, f"a mapping of {', '.join(schema.fields)} needed, got {shown(written)}")
            return None
        found: Any
        messages: dict[str, Any]
        try:
            found, messages = schema.load(written), {}
        except ValidationError as error:
            found = error.valid_data
            messages = error.normalized_messages()  # type: ignore[no-untyped-call]  # its gap
        self._unknown(written, schema.fields, where)
        for name in schema.fields:
            self._told(at(where, name), messages.get(name, ()))
        unique = self._once(found, where, once)
        there = named is None or self._there(found.get(named[0]), at(where, named[0]), *named[1:])
        return found if unique and there and len(found) == len(schema.fields) else None

    def _unknown(self, written: Iterable[str], known: Collection[str], where: str) -> None:
        for name in written:
            if name not in known:
                hint = "" if self._faults.full else suggestion(name, known)
                kind = "field" if where else "section"
                self._faults.add(at(where, name), f"no such {kind}, there are {', '.join(known)}{hint}")

    def _once(self, found: Mapping[str, Any], where: str, names: Iterable[str]) -> bool:
        once = True
        for name in names:
            value = found.get(name)
            if value is None:
                continue
            place = at(where, name)
            first = self._seen.setdefault((name, folded(value) if name == "email" else value), place)
            if first != place:
                self._faults.add(place, f"the same as {first}; give it another, or remove one of the two")
                once = False
        return once

    def _there(self, name: str | None, where: str, section: str, known: Mapping[str, object]) -> bool:
        if name is None or name in known:
            return True
        hint = "" if self._faults.full else suggestion(name, known)
        there = ", ".join(list(known)[:_LISTED_MOST]) or "nothing"
        self._faults.add(where, f"{shown(name)} is not in `{section}`, there is {there}{hint}")
        return False

    def _told(self, where: str, messages: Any) -> None:
        if isinstance(messages, dict):
            for part, inner in messages.items():
                self._told(at(where, part), inner)
        else:
            for message in messages:
                self._faults.add(where, str(message))
