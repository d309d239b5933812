"""The files behind the pages: ours beside this module, Swagger UI's from its package; all works offline."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from main_api.exchange import Call, Reply

# Pages may load what this origin serves and nothing else; nothing inline runs.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8"}
_TYPES |= {"js": "text/javascript; charset=utf-8", "png": "image/png"}


@dataclass(frozen=True, slots=True)
class File:
    """A file that is served: read at each request, so that a megabyte of script is in nobody's memory."""

    path: Traversable
    policy: str | None = None

    def __call__(self, _: Call) -> Reply:
        """Give the file with a tag, to be asked for again at each use and then mostly not sent."""
        content = self.path.read_bytes()
        headers = [
            ("Content-Type", _TYPES[self.path.name.rpartition(".")[2]]),
            ("Cache-Control", "no-cache"),
            ("ETag", f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'),
        ]
        if self.policy:
            headers.append(("Content-Security-Policy", self.policy))
        return Reply(200, tuple(headers), content)


def ours(name: str, policy: str | None = None) -> File:
    """Give a file of this folder."""
    return File(files("main_api.console") / name, policy)


def swagger_ui(name: str) -> File:
    """Give a file of Swagger UI's distribution."""
    return File(files("flask_swagger_ui") / "dist" / name)
