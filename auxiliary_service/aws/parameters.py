"""SSM's parameters of one project.

A SecureString that was not decrypted loses its value here: not even its cipher text goes further.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from auxiliary_service.aws.calls import AwsCalls
from auxiliary_service.aws.clients import SSM
from auxiliary_service.aws.pages import Page, Patience, read_pages
from auxiliary_service.errors import AwsError, InvalidRequest

# SSM's own most.
PAGE_MOST = 10
SECURE = "SecureString"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter; ``value`` is None when redacted, and never part of the object's ``repr``."""

    name: str
    type: str
    value: str | None = field(repr=False)
    version: int
    last_modified_date: datetime
    data_type: str
    redacted: bool

    @property
    def secret(self) -> bool:
        """Whether the value is the plain text of a SecureString."""
        return self.type == SECURE and not self.redacted


class ParameterStore:
    """Reads the parameters below ``/<project>/`` and no others."""

    def __init__(self, client: SSM, call: AwsCalls, project: str) -> None:
        self._client = client
        self._call = call
        self._root = f"/{project}"
        self._told = False

    def get_parameter(self, path: str, *, decrypt: bool) -> Parameter:
        """Give the parameter ``/<project>/<path>``; raises :class:`ParameterNotFound`.

        :class:`AwsError` where AWS answers with another one.
        """
        name = f"{self._root}/{path}"
        answer = self._call("GetParameter", self._client.get_parameter, Name=name, WithDecryption=decrypt)
        said = answer["Parameter"]
        if said["Name"] != name:
            self._tell_foreign("GetParameter")
            raise AwsError
        return _parameter(said, decrypt)

    def list_parameters(
        self,
        paths: Sequence[str],
        start: str | None,
        limit: int | None,
        patience: Patience,
        *,
        decrypt: bool,
    ) -> Page[Parameter]:
        """List all parameters below each of ``paths`` in turn, at any depth; see :func:`read_pages`.

        A path is relative to the project, the empty one is the project itself; none may be below another.
        The tokens of this list say which path they are in. A ``start`` that is in none of them is
        :class:`InvalidRequest`.
        """
        size = min(PAGE_MOST, limit or PAGE_MOST)
        return read_pages(
            lambda token: self._page_of(paths, token, size, decrypt),
            patience,
            start=start,
            size=size,
            limit=limit,
        )

    def _page_of(self, paths: Sequence[str], token: str | None, size: int, decrypt: bool) -> Page[Parameter]:
        at, inner = _place(paths, token)
        page = self._page(paths[at], inner, size, decrypt)
        if page.next_token is not None:
            return Page(page.items, _joined(paths[at], page.next_token))
        last = at + 1 == len(paths)
        return Page(page.items, None if last else _joined(paths[at + 1], ""))

    def _page(self, path: str, token: str | None, size: int, decrypt: bool) -> Page[Parameter]:
        asked = f"{self._root}/{path}".rstrip("/")
        arguments: dict[str, Any] = {
            "Path": asked,
            "Recursive": True,
            "MaxResults": size,
            "WithDecryption": decrypt,
        }
        if token is not None:
            arguments["NextToken"] = token
        answer = self._call("GetParametersByPath", self._client.get_parameters_by_path, **arguments)
        said = answer.get("Parameters", ())
        own = [each for each in said if each["Name"].startswith(f"{asked}/")]
        if len(own) < len(said):
            self._tell_foreign("GetParametersByPath")
        return Page(tuple(_parameter(each, decrypt) for each in own), answer.get("NextToken") or None)

    def _tell_foreign(self, operation: str) -> None:
        # Once: an endpoint that does this does it in every answer.
        if not self._told:
            self._told = True
            log.warning(
                "AWS gave parameters that it was not asked for; they are shown to nobody",
                extra={"fields": {"operation": operation}},
            )


def _joined(path: str, token: str) -> str:
    # No path has a colon in it.
    return f"{path}:{token}"


def _place(paths: Sequence[str], token: str | None) -> tuple[int, str | None]:
    """Find in which of ``paths`` a token of the list is, and SSM's own; without one both begin."""
    if token is None:
        return 0, None
    path, colon, inner = token.partition(":")
    if not colon or path not in paths:
        raise InvalidRequest("The nextToken is not of this list")
    return paths.index(path), inner or None


def _parameter(said: Mapping[str, Any], decrypted: bool) -> Parameter:
    redacted = said["Type"] == SECURE and not decrypted
    return Parameter(
        name=said["Name"],
        type=said["Type"],
        value=None if redacted else said["Value"],
        version=said["Version"],
        last_modified_date=said["LastModifiedDate"],
        data_type=said.get("DataType", "text"),
        redacted=redacted,
    )
