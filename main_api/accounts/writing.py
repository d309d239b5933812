"""Changes to the text of an accounts file that leave the rest of it as it was written, comments included."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.tokens import CommentToken

from main_api.accounts.faults import AccountsFault
from main_api.accounts.file import Accounts, parse

# What a file begins with that nobody has written yet.
FIRST = """\
# Who may call the gateway, and what they may: `main-api accounts --help`.
roles:
  reader: [buckets:read, parameters:read]
  operator: [gateway:operate]
  admin: [buckets:read, parameters:read, parameters:decrypt, gateway:operate]
"""
_INDENTED = re.compile(r"^ +- ", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.@+:/-]*[A-Za-z0-9_.@+/-])?\Z")
# What YAML, or the older YAML of another tool, takes for something else than a text.
_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))

_EMPTY = re.compile(r"\Z")

Value = str | bool | Sequence[str]


class Document:
    """The text of an accounts file, and what it says.

    Raises :class:`AccountsFault` when the text has faults, or would have them with the change: then nothing
    is changed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.accounts = parse(text)

    def add(self, section: str, values: Mapping[str, Value]) -> str:
        """Add an entry at the end of ``users`` or ``keys``; give it as YAML of its own."""
        entry = CommentedMap({name: _written(value) for name, value in values.items()})
        tree, yaml = self._tree()
        number = len(getattr(self.accounts, section))
        if tree is None:
            # Comments alone, which the library would not keep.
            return self._taken(
                f"{self.text.rstrip()}\n{_dumped(yaml, {section: [entry]})}".lstrip(), section, 0
            )
        if not isinstance(tree.get(section), CommentedSeq):
            tree[section] = CommentedSeq()
        entries = tree[section]
        _move_comment(entries, entry)
        entries.append(entry)
        return self._taken(_dumped(yaml, tree), section, number)

    def set(self, section: str, number: int, name: str, value: Value) -> str:
        """Set a field of an entry; give the whole entry as YAML of its own."""
        tree, yaml = self._tree()
        entry = tree[section][number]
        if name in entry:
            entry[name] = _written(value)
        else:
            added = CommentedMap({name: _written(value)})
            _move_comment(entry, added)
            entry.update(added)
            entry.ca.items.update(added.ca.items)
        return self._taken(_dumped(yaml, tree), section, number, name)

    def _tree(self) -> tuple[Any, YAML]:
        yaml = YAML()
        yaml.Resolver = _AsWritten
        yaml.preserve_quotes = True
        yaml.width = 1 << 30  # no line is broken that was not
        if _INDENTED.search(self.text):
            yaml.indent(mapping=2, sequence=4, offset=2)
        try:
            return yaml.load(self.text), yaml
        except Exception as error:
            raise _unwritable() from error

    def _taken(self, text: str, section: str, number: int, name: str | None = None) -> str:
        accounts = parse(text)
        if not _nothing_else(self.accounts, accounts, section, number, name):
            raise _unwritable()
        self.text, self.accounts = text, accounts
        tree, yaml = self._tree()
        entry = tree[section][number]
        entry.ca.items.clear()
        return _dumped(yaml, {section: [entry]})


class _AsWritten(VersionedResolver):
    """Takes every text for a text, so that it is written again as it was, ``1_000`` and ``Null`` too.

    Where no text stands is nothing: between braces the library would write the empty one in quotes.
    """

    @property
    def versioned_resolver(self) -> Any:
        return {"": [("tag:yaml.org,2002:null", _EMPTY)]}


def _unwritable() -> AccountsFault:
    return AccountsFault(
        ["this file cannot be changed without changing more than was asked; use --file - and an editor"]
    )


def _dumped(yaml: YAML, tree: object) -> str:
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()


def _written(value: Value) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = _PLAIN.match(value) and value.lower() not in _WORDS
        return value if plain else DoubleQuotedScalarString(value)
    listed = CommentedSeq(_written(each) for each in value)
    listed.fa.set_flow_style()
    return listed


def _move_comment(before: Any, after: CommentedMap) -> None:
    """Move the lines of comments behind ``before`` to behind ``after``, which is to follow it.

    The library keeps them with the last text above them, and they mostly belong to what comes below: the next
    section. What stands behind that text in the same line stays.
    """
    place, key, slot = None, None, 0
    while isinstance(before, CommentedMap | CommentedSeq) and before and not before.fa.flow_style():
        is_map = isinstance(before, CommentedMap)
        place, key, slot = before, next(reversed(before)) if is_map else len(before) - 1, 2 if is_map else 0
        before = before[key]
    kept = place.ca.items.get(key) if place is not None else None
    token = kept[slot] if kept else None
    if not isinstance(token, CommentToken):
        return
    line, _, lines = token.value.partition("\n")
    if kept and lines:
        kept[slot] = CommentToken(f"{line}\n", token.start_mark, None) if line else None
        moved = CommentToken(f"\n{lines}", token.start_mark, None)
        after.ca.items[next(reversed(after))] = [None, None, moved, None]


def _nothing_else(before: Accounts, after: Accounts, section: str, number: int, name: str | None) -> bool:
    """Whether nothing differs but one entry, and of that but the field ``name``; None for a new one."""
    if (before.roles, before.plans) != (after.roles, after.plans):
        return False
    for each in ("users", "keys"):
        old, new = list(getattr(before, each)), list(getattr(after, each))
        if each == section:
            now = new.pop(number)
            was = now if name is None else old.pop(number)
            if any(
                getattr(was, one.name) != getattr(now, one.name) for one in fields_of(was) if one.name != name
            ):
                return False
        if old != new:
            return False
    return True
