"""YAML for files that somebody else may have written: mappings, lists, texts, true, false and null.

YAML 1.2. A number or a date is the text that it was written as, for whoever knows the field to read. There
are no anchors and aliases, which make a small file a large one, no tags but those of the core schema, and no
two keys of a mapping are the same.
"""

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, MappingStartEvent, ScalarEvent, SequenceStartEvent
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from main_api.accounts.faults import AccountsFault, Faults, at

# Bytes: some 15,000 users. Reading takes 1.5 s of CPU for each MiB.
BYTES_MOST = 4 * 1024 * 1024
_DEPTH_MOST = 8

_CORE = "tag:yaml.org,2002:"
_NULL, _BOOL = f"{_CORE}null", f"{_CORE}bool"
_TAGS: dict[type, frozenset[str]] = {
    ScalarEvent: frozenset(f"{_CORE}{name}" for name in ("str", "null", "bool", "int", "float")),
    SequenceStartEvent: frozenset((f"{_CORE}seq",)),
    MappingStartEvent: frozenset((f"{_CORE}map",)),
}
_BOOLS = {"true": True, "false": False}
# The library quotes what it stumbled on; more than a few characters may be of a secret.
_QUOTED = re.compile(r"'[^'<>]{9,}'")


def values(text: str, faults: Faults) -> Any:
    """Read ``text``; None when nothing is in it.

    Keys that are there twice are added to ``faults``. Raises :class:`AccountsFault` for what is not YAML, or
    is more of it than is needed.
    """
    if len(text) > BYTES_MOST or len(text.encode("utf-8", "surrogatepass")) > BYTES_MOST:
        raise AccountsFault([f"more than {BYTES_MOST // 1024**2} MiB"])
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Composer
    yaml.max_depth = _DEPTH_MOST
    try:
        node = yaml.compose(text)
    except _Refused as error:
        raise AccountsFault([str(error)]) from None
    except MaxDepthExceededError as error:
        raise AccountsFault([f"{_line(error.problem_mark)}: more than {_DEPTH_MOST} levels"]) from None
    except MarkedYAMLError as error:
        problem = _QUOTED.sub("something", str(error.problem or "something is wrong"))
        place = _line(error.problem_mark or error.context_mark)
        raise AccountsFault([f"{place}: not YAML: {problem}"]) from None
    except ReaderError as error:
        place = f"line {text.count(chr(10), 0, error.position) + 1}"
        raise AccountsFault([f"{place}: a character that is not printable, remove it"]) from None
    except Exception as error:
        # The library has more ways to stumble than it names; none of them may end who only reads a file.
        raise AccountsFault([f"not YAML ({type(error).__name__})"]) from None
    return _value(node, "", faults)


class _Refused(Exception):
    """What is YAML, but not needed for accounts."""


class _Composer(Composer):
    """Refuses before anything is built."""

    def compose_document(self) -> Any:
        start = self.parser.peek_event()
        if start.version not in (None, (1, 2)):
            raise _Refused(f"{_line(start.start_mark)}: YAML 1.2 is read, leave out %YAML")
        return super().compose_document()

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        if isinstance(event, AliasEvent) or event.anchor is not None:
            raise _Refused(
                f"{_line(event.start_mark)}: anchors (&) and aliases (*) are not taken, write it out; "
                "a text that begins with one of them needs quotes"
            )
        if event.ctag is not None and str(event.ctag) not in {"!", *_TAGS[type(event)]}:
            raise _Refused(f"{_line(event.start_mark)}: this tag (!) is not taken, leave it out")
        return super().compose_node(parent, index)


def _line(mark: Any) -> str:
    return "line ?" if mark is None else f"line {mark.line + 1}"


def _value(node: Any, where: str, faults: Faults) -> Any:
    if isinstance(node, MappingNode):
        return _mapping(node, where, faults)
    if isinstance(node, SequenceNode):
        return [_value(each, at(where, number), faults) for number, each in enumerate(node.value)]
    if node is None or node.tag == _NULL:
        return None
    return _BOOLS.get(node.value.lower(), node.value) if node.tag == _BOOL else node.value


def _mapping(node: MappingNode, where: str, faults: Faults) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            faults.add(where or _line(key.start_mark), "a key must be a text")
            continue
        place = at(where, key.value)
        if key.value in made:
            faults.add(place, f"given twice, the second time in {_line(key.start_mark)}; keep one")
        made.setdefault(key.value, _value(value, place, faults))
    return made
