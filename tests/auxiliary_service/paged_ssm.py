"""An SSM of names that pages as the real one may: ten at most, empty pages, tokens of one path alone."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

WHEN = datetime(2023, 12, 1, 12, tzinfo=UTC)
PROJECT = "/myproject"


class PagedSsm:
    """Answers ``GetParametersByPath``; every page that ``empty_every`` divides is empty, but for its token.

    ``names`` are relative to the project. ``asked`` are the paths that were asked, in their order.
    """

    def __init__(self, names: Iterable[str], empty_every: int = 0) -> None:
        self.names = sorted(f"{PROJECT}/{name}" for name in names)
        self._empty_every = empty_every
        self.asked: list[str] = []

    def get_parameters_by_path(self, **arguments: Any) -> dict[str, Any]:
        path, size = arguments["Path"], arguments["MaxResults"]
        assert arguments["Recursive"] is True
        assert 1 <= size <= 10
        self.asked.append(path)
        begin, turn = self._place(path, arguments.get("NextToken"))
        found = [name for name in self.names if name.startswith(f"{path}/")]
        end = begin if self._empty_every and turn % self._empty_every == 0 else begin + size
        page: dict[str, Any] = {"Parameters": [said(name) for name in found[begin:end]]}
        return page | ({"NextToken": f"{path}#{end}#{turn + 1}"} if end < len(found) else {})

    @staticmethod
    def _place(path: str, token: str | None) -> tuple[int, int]:
        if token is None:
            return 0, 1
        of, begin, turn = (*token.split("#"), "", "")[:3]
        if of != path:
            code = {"Error": {"Code": "InvalidNextToken", "Message": "of another path"}}
            raise ClientError(code, "GetParametersByPath")  # type: ignore[arg-type]
        return int(begin), int(turn)


def said(name: str) -> dict[str, Any]:
    """Write a parameter as SSM answers it."""
    return {
        "Name": name,
        "Type": "String",
        "Value": f"value of {name}",
        "Version": 1,
        "LastModifiedDate": WHEN,
        "DataType": "text",
    }


def relative(names: Iterable[str]) -> list[str]:
    """Give names without the project."""
    return [name.removeprefix(f"{PROJECT}/") for name in names]


def is_below(name: str, path: str) -> bool:
    """Say segment by segment, as nothing that is tested does, whether ``name`` is below ``path``."""
    of, beneath = name.split("/") if name else [], path.split("/") if path else []
    return len(of) > len(beneath) and of[: len(beneath)] == beneath
