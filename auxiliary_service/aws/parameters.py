"""SSM's parameters of one project.

A SecureString that was not decrypted loses its value here: not even its cipher text goes further.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from auxiliary_service.aws.calls import AwsCalls
from auxiliary_service.aws.clients import SSM
from auxiliary_service.aws.pages import Page, Patience, read_pages

# SSM's own most.
PAGE_MOST = 10
SECURE = "SecureString"


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

    def get_parameter(self, path: str, *, decrypt: bool) -> Parameter:
        """Give the parameter ``/<project>/<path>``; raises :class:`ParameterNotFound`."""
        answer = self._call(
            "GetParameter", self._client.get_parameter, Name=f"{self._root}/{path}", WithDecryption=decrypt
        )
        return _parameter(answer["Parameter"], decrypt)

    def list_parameters(
        self, prefix: str | None, start: str | None, limit: int | None, patience: Patience, *, decrypt: bool
    ) -> Page[Parameter]:
        """List all parameters below ``/<project>/<prefix>``, at any depth; see :func:`read_pages`."""
        size = min(PAGE_MOST, limit or PAGE_MOST)
        path = self._root if prefix is None else f"{self._root}/{prefix}"
        return read_pages(
            lambda token: self._page(path, token, size, decrypt),
            patience,
            start=start,
            size=size,
            limit=limit,
        )

    def _page(self, path: str, token: str | None, size: int, decrypt: bool) -> Page[Parameter]:
        arguments: dict[str, Any] = {
            "Path": path,
            "Recursive": True,
            "MaxResults": size,
            "WithDecryption": decrypt,
        }
        if token is not None:
            arguments["NextToken"] = token
        answer = self._call("GetParametersByPath", self._client.get_parameters_by_path, **arguments)
        parameters = (_parameter(each, decrypt) for each in answer.get("Parameters", ()))
        return Page(tuple(parameters), answer.get("NextToken") or None)


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
