"""The setting that names who else may issue tokens: a list in JSON, every fault of it told at once."""

import difflib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from marshmallow import Schema, ValidationError, fields, validate

from chassis.setting_fields import is_host
from main_api import scopes

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
ISSUERS_MOST = 16
_TEXT_MOST = 256
_URL = re.compile(r"[!-{}~]{1,512}\Z")
_LIFETIME_LEAST, _LIFETIME_MOST = 60, 31 * 86400
_UNKNOWN = "unknown field"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One issuer: its name as ``iss`` has it, to the letter, and what its tokens must be like.

    One of ``audiences`` must be in the claim ``audience_claim``. ``jwks`` is where its keys are,
    ``algorithm`` what it signs with. ``scopes_claim`` is a claim's name, or names with dots between them
    for objects within objects; ``scopes_map`` gives the scopes for each of its values, without one the
    values are scopes themselves. A token may last ``max_lifetime`` seconds. ``client``, if it is set, must
    be the one that the token was issued to.
    """

    issuer: str
    audiences: frozenset[str]
    jwks: str
    algorithm: str = "RS256"
    scopes_claim: str = "scope"
    scopes_map: Mapping[str, frozenset[str]] | None = None
    audience_claim: str = "aud"
    client: str | None = None
    max_lifetime: int = 86400


class _Url(fields.Field[Any]):
    """``https://…``, or ``http://…`` for this machine; kept as it is, for it may be a name."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str:
        try:
            parts = urlsplit(value if isinstance(value, str) and _URL.match(value) else "")
            right = is_host(parts.hostname) and parts.port != 0 and not re.search("[@#]", value)
        except ValueError:
            right = False
        if not right or parts.scheme not in ("http", "https"):
            raise ValidationError("must be https://host/path, without user or fragment")
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            raise ValidationError("must be https://, http:// is for this machine alone")
        return str(value)


class _Texts(fields.Field[Any]):
    def _deserialize(self, value: Any, *_: Any, **__: Any) -> frozenset[str]:
        listed = value if isinstance(value, list) else [value]
        if not listed or not all(isinstance(each, str) and 0 < len(each) <= _TEXT_MOST for each in listed):
            raise ValidationError("a text or a list of texts is needed")
        return frozenset(listed)


class _ScopeMap(fields.Field[Any]):
    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Mapping[str, frozenset[str]]:
        if not isinstance(value, dict) or not all(isinstance(each, list) for each in value.values()):
            raise ValidationError("an object is needed that has a list of scopes for each value of the claim")
        faults = [
            f"{each!r} of {name!r} is no scope{_nearest(each, scopes.SCOPES)}"
            for name, listed in value.items()
            for each in listed
            if not isinstance(each, str) or not scopes.valid(each)
        ]
        if faults:
            raise ValidationError(faults)
        return {name: frozenset(listed) for name, listed in value.items()}


class _Strict(Schema):
    error_messages = {"unknown": _UNKNOWN}  # noqa: RUF012 - as marshmallow declares it


_Scopes = _Strict.from_dict(
    {"claim": fields.String(validate=validate.Length(1, _TEXT_MOST)), "map": _ScopeMap()}
)
_Entry = _Strict.from_dict(
    {
        "issuer": _Url(required=True),
        "audience": _Texts(required=True),
        "jwks": _Url(required=True),
        "algorithm": fields.String(validate=validate.OneOf(ALGORITHMS)),
        "scopes": fields.Nested(_Scopes),
        "audience_claim": fields.String(validate=validate.OneOf(("aud", "client_id", "azp"))),
        "client": fields.String(validate=validate.Length(1, _TEXT_MOST)),
        "max_lifetime": fields.Integer(strict=True, validate=validate.Range(_LIFETIME_LEAST, _LIFETIME_MOST)),
    }
)


class Issuers(fields.Field[Any]):
    """A tuple of :class:`Issuer`, read from JSON: a list of objects, at most :data:`ISSUERS_MOST`.

    Each has ``issuer``, ``audience`` (a text or a list) and ``jwks``, and may have ``algorithm``,
    ``scopes`` (``{"claim": …, "map": {…}}``), ``audience_claim``, ``client`` and ``max_lifetime``. Every
    fault names the number of the issuer and the field.
    """

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> tuple[Issuer, ...]:
        try:
            given = json.loads(str(value), object_pairs_hook=_once)
        except RecursionError:
            raise ValidationError("no JSON that can be read") from None
        except ValueError as error:
            raise ValidationError(f"no JSON: {error}") from None
        if not isinstance(given, list) or len(given) > ISSUERS_MOST:
            raise ValidationError(f"a list of at most {ISSUERS_MOST} issuers is needed")
        entries = [_entry(each, number) for number, each in enumerate(given, 1)]
        faults = [fault for each in entries if isinstance(each, list) for fault in each]
        faults += _twice(given)
        if faults:
            raise ValidationError(faults)
        return tuple(each for each in entries if isinstance(each, Issuer))


def _entry(given: object, number: int) -> Issuer | list[str]:
    """Read one issuer, or give its faults."""
    try:
        read: dict[str, Any] = _Entry().load(given)  # type: ignore[arg-type]  # whatever it is, it is judged
    except ValidationError as error:
        return [f"number {number}{fault}" for fault in _told(error.messages)]
    named = {f"scopes_{name}": each for name, each in read.pop("scopes", {}).items()}
    return Issuer(audiences=read.pop("audience"), **named, **read)


def _told(messages: Any, path: str = "") -> Iterator[str]:
    if isinstance(messages, dict):
        for name, inner in messages.items():
            if inner == [_UNKNOWN]:
                inner = [_UNKNOWN + _nearest(name, (_Scopes if path else _Entry)().fields)]
            where = "" if name == "_schema" else f".{name}" if path else f", {name}"
            yield from _told(inner, path + where)
    else:
        yield from (f"{path}: {message}" for message in messages)


def _twice(given: list[Any]) -> Iterator[str]:
    names = [each.get("issuer") if isinstance(each, dict) else None for each in given]
    for number, name in enumerate(names, 1):
        first = names.index(name) + 1
        if name is not None and first < number:
            yield f"number {number}, issuer: the same as number {first}'s"


def _nearest(name: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), 1)
    return f", did you mean {near[0]}?" if near else f", there are {', '.join(known)}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return made


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
