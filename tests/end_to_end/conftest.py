"""The pair with its demonstration data, shared by the tests that change nothing in it."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.processes import Server, request, servers, until


@pytest.fixture(scope="session")
def pair() -> Iterator[dict[str, Server]]:
    """Run all three processes as `make run` does."""
    with servers("aws", "auxiliary", "gateway") as running:
        until(lambda: request(running["gateway"].port, "/api/health/ready").status == 200, "ready")
        yield running
