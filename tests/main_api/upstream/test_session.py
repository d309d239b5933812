"""What the session keeps for an address, and that it lets go of it."""

from typing import Any

import pytest

from main_api.upstream.session import Session


def pools(session: Session, *urls: str) -> Any:
    """Give the pool manager of plain HTTP or TLS with a pool for each of ``urls``; nothing is connected."""
    manager = session._session.get_adapter(urls[0]).poolmanager  # type: ignore[attr-defined]
    for url in urls:
        manager.connection_from_url(url)
    return manager


def kept(manager: Any) -> set[tuple[str, int]]:
    return {(key.key_host, key.key_port) for key in manager.pools.keys()}  # noqa: SIM118 - no mapping


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("http://10.0.0.1:1", {("10.0.0.1", 2), ("10.0.0.2", 1), ("fd00::1", 1)}),
        ("http://[fd00::1]:1", {("10.0.0.1", 1), ("10.0.0.1", 2), ("10.0.0.2", 1)}),
        ("http://10.0.0.9:1", {("10.0.0.1", 1), ("10.0.0.1", 2), ("10.0.0.2", 1), ("fd00::1", 1)}),
    ],
)
def test_what_is_forgotten_is_that_address_alone(url: str, left: set[tuple[str, int]]) -> None:
    session = Session(pool_size=4, connect_timeout=1)
    manager = pools(
        session, "http://10.0.0.1:1", "http://10.0.0.1:2", "http://10.0.0.2:1", "http://[fd00::1]:1"
    )

    session.forget(url)

    assert {(host.strip("[]"), port) for host, port in kept(manager)} == left


def test_the_standard_port_is_one_too() -> None:
    session = Session(pool_size=4, connect_timeout=1)
    manager = pools(session, "http://a.test")

    session.forget("http://a.test")

    assert kept(manager) == set()
