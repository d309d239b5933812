"""What the tests of this service share: an AWS made of functions, and the application on top of it."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from auxiliary_service.app import create_app
from auxiliary_service.aws.clients import Clients
from auxiliary_service.aws.shared_reads import SharedReads
from auxiliary_service.settings import Settings
from chassis.settings import load

TOKEN = "internal-token-0123456789"
WHEN = datetime(2023, 12, 1, 12, tzinfo=UTC)


class FakeAws:
    """Both clients at once: every call is kept, and answered by ``answer(operation, arguments)``."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answer: Callable[[str, dict[str, Any]], Any] = lambda operation, arguments: {}

    def _call(self, operation: str, arguments: dict[str, Any]) -> Any:
        self.calls.append((operation, arguments))
        return self.answer(operation, arguments)

    def list_buckets(self, **arguments: Any) -> Any:
        return self._call("ListBuckets", arguments)

    def get_parameter(self, **arguments: Any) -> Any:
        return self._call("GetParameter", arguments)

    def get_parameters_by_path(self, **arguments: Any) -> Any:
        return self._call("GetParametersByPath", arguments)


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Given:
    """The gateway's headers, by what it would say."""

    token = TOKEN

    @staticmethod
    def headers(scopes: str | None = None, **more: str) -> dict[str, str]:
        said = {"Authorization": f"Bearer {TOKEN}"}
        if scopes is not None:
            said["X-Internal-Scopes"] = scopes
        return said | {name.replace("_", "-"): value for name, value in more.items()}


@pytest.fixture
def given() -> Given:
    return Given()


@pytest.fixture
def aws() -> FakeAws:
    return FakeAws()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def start(aws: FakeAws) -> Callable[..., FlaskClient]:
    """Give a function that makes the application on ``aws`` with an environment."""

    def make(**environ: str) -> FlaskClient:
        return create_app(load(Settings, environ), Clients(s3=aws, ssm=aws)).test_client()

    return make


@pytest.fixture
def parameter() -> Callable[..., dict[str, Any]]:
    """Give a function that writes a parameter as SSM answers it."""

    def make(name: str, **changes: Any) -> dict[str, Any]:
        return {
            "Name": name,
            "Type": "String",
            "Value": f"value of {name}",
            "Version": 1,
            "LastModifiedDate": WHEN,
            "ARN": f"arn:aws:ssm:us-west-2:123456789012:parameter{name}",
            "DataType": "text",
            **changes,
        }

    return make


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Give a semaphore that is released once for each reader that has joined a shared read."""
    semaphore = threading.Semaphore(0)
    join = SharedReads._join

    def tell(self: SharedReads, *arguments: Any) -> Any:
        flight = join(self, *arguments)
        semaphore.release()
        return flight

    monkeypatch.setattr(SharedReads, "_join", tell)
    return semaphore
