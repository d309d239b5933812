"""What etcd's JSON gateway is asked, and what is made of its answers; the shapes are etcd 3.4's own."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses

from auxiliary_service.registration.etcd import TTL, Etcd
from auxiliary_service.registration.registry import Announced, RegistryFailed

ONE, TWO, THREE = "http://10.0.0.11:2379", "http://10.0.0.12:2379", "https://10.0.0.13:2379"
LEASE = "2324035509510459909"
KEY = "services/auxiliary-service/auxiliary-service-pod-3001"
HEADER = {"cluster_id": "1", "member_id": "2", "revision": "3", "raft_term": "4"}
NO_LEASE = {"error": "etcdserver: requested lease not found", "code": 5}

Make = Callable[..., Announced]


@pytest.fixture
def cluster() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        answers(mock, ONE)
        yield mock


def answers(cluster: responses.RequestsMock, url: str, **changed: Any) -> None:
    """Have the endpoint ``url`` answer as a cluster in which all is well, but for what is ``changed``."""
    documents: dict[str, Any] = {
        "lease/grant": {"header": HEADER, "ID": LEASE, "TTL": str(TTL)},
        "lease/keepalive": {"result": {"header": HEADER, "ID": LEASE, "TTL": str(TTL)}},
        "kv/put": {"header": HEADER},
        "kv/range": {"header": HEADER, "kvs": [{"key": "a2V5", "lease": LEASE}], "count": "1"},
        "kv/deleterange": {"header": HEADER, "deleted": "1"},
        "lease/revoke": {"header": HEADER},
    }
    for path, document in documents.items():
        change = changed.get(path.replace("/", "_"), document)
        how = change if isinstance(change, dict) and "status" in change else {"json": change}
        if isinstance(change, Exception):
            how = {"body": change}
        cluster.upsert("POST", f"{url}/v3/{path}", **how)


def etcd(announced: Make, *endpoints: str) -> Etcd:
    return Etcd(announced(), endpoints or (ONE,), "services/auxiliary-service")


def asked(cluster: responses.RequestsMock) -> list[tuple[str, Any]]:
    """Give the paths and documents of all requests so far."""
    return [
        (str(call.request.url).partition("/v3/")[2], json.loads(call.request.body or b""))
        for call in cluster.calls
    ]


def hosts(cluster: responses.RequestsMock) -> list[str]:
    return [str(call.request.url).partition("/v3/")[0] for call in cluster.calls]


def test_a_registration_is_a_key_under_a_new_lease(cluster: responses.RequestsMock, announced: Make) -> None:
    etcd(announced).register()
    (grant, ttl), (put, pair) = asked(cluster)
    assert (grant, ttl, put) == ("lease/grant", {"TTL": "15"}, "kv/put")
    assert pair.pop("lease") == LEASE
    assert {name: b64decode(each).decode() for name, each in pair.items()} == {
        "key": KEY,
        "value": '{"Op":0,"Addr":"10.0.0.1:3001","Metadata":{"version":"1.2.3","weight":2}}',
    }


def test_an_ipv6_address_stands_in_brackets(cluster: responses.RequestsMock, announced: Make) -> None:
    Etcd(announced(address=lambda: "fd00::1"), [ONE], "p").register()
    assert json.loads(b64decode(asked(cluster)[1][1]["value"]))["Addr"] == "[fd00::1]:3001"


def test_without_an_address_no_lease_is_asked_for(cluster: responses.RequestsMock, announced: Make) -> None:
    def fail() -> str:
        raise RegistryFailed("no way")

    with pytest.raises(RegistryFailed, match="no way"):
        Etcd(announced(address=fail), [ONE], "p").register()
    assert asked(cluster) == []


def test_a_renewal_keeps_the_lease_and_looks_at_the_key(
    cluster: responses.RequestsMock, announced: Make
) -> None:
    registry = etcd(announced)
    registry.register()
    assert registry.renew()
    (keepalive, lease), (get, key) = asked(cluster)[2:]
    assert (keepalive, lease, get) == ("lease/keepalive", {"ID": LEASE}, "kv/range")
    assert b64decode(key["key"]).decode() == KEY


@pytest.mark.parametrize(
    "changed",
    [
        {"lease_keepalive": {"result": {"header": HEADER, "ID": LEASE}}},
        {"lease_keepalive": {"result": {"header": HEADER, "ID": LEASE, "TTL": "0"}}},
        {"kv_range": {"header": HEADER}},
        {"kv_range": {"header": HEADER, "kvs": []}},
        {"kv_range": {"header": HEADER, "kvs": [{"key": "a2V5"}]}},
        {"kv_range": {"header": HEADER, "kvs": [{"key": "a2V5", "lease": "7"}]}},
    ],
    ids=["lease", "lease's time", "key", "keys", "key without a lease", "key under another lease"],
)
def test_a_lost_lease_or_key_is_forgotten(
    cluster: responses.RequestsMock, announced: Make, changed: dict[str, Any]
) -> None:
    registry = etcd(announced)
    registry.register()
    answers(cluster, ONE, **changed)
    assert not registry.renew()


def test_each_registration_has_a_lease_of_its_own(cluster: responses.RequestsMock, announced: Make) -> None:
    registry = etcd(announced)
    registry.register()
    answers(cluster, ONE, lease_grant={"ID": "77"}, kv_range={"kvs": [{"lease": "77"}]})
    registry.register()
    assert asked(cluster)[-1][1]["lease"] == "77"
    assert registry.renew()
    assert asked(cluster)[-2] == ("lease/keepalive", {"ID": "77"})


def test_a_departure_removes_the_key_and_then_the_lease(
    cluster: responses.RequestsMock, announced: Make
) -> None:
    registry = etcd(announced)
    registry.register()
    registry.deregister()
    (delete, key), (revoke, lease) = asked(cluster)[2:]
    assert (delete, revoke, lease) == ("kv/deleterange", "lease/revoke", {"ID": LEASE})
    assert b64decode(key["key"]).decode() == KEY
    assert set(key) == {"key"}  # a range_end would take others along


def test_who_has_no_lease_removes_the_key_alone(cluster: responses.RequestsMock, announced: Make) -> None:
    registry = etcd(announced)
    registry.deregister()
    registry.deregister()
    assert [path for path, _ in asked(cluster)] == ["kv/deleterange"] * 2


def test_a_lease_is_revoked_once(cluster: responses.RequestsMock, announced: Make) -> None:
    registry = etcd(announced)
    registry.register()
    registry.deregister()
    registry.deregister()
    assert [path for path, _ in asked(cluster)].count("lease/revoke") == 1


@pytest.mark.parametrize("refused", [{"status": 404, "json": NO_LEASE}, requests.ConnectionError()])
def test_a_lease_that_cannot_be_revoked_ends_by_itself(
    cluster: responses.RequestsMock, announced: Make, refused: Any
) -> None:
    registry = etcd(announced)
    registry.register()
    answers(cluster, ONE, lease_revoke=refused)
    registry.deregister()


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("register", {"lease_grant": {"header": HEADER}}),
        ("register", {"lease_grant": {"ID": "x"}}),
        ("register", {"lease_grant": {"ID": {"a": 1}}}),
        ("register", {"lease_grant": {"ID": "9" * 5000}}),
        ("register", {"lease_grant": []}),
        ("register", {"lease_grant": {"status": 500, "body": b"canary"}}),
        ("register", {"kv_put": {"status": 404, "json": NO_LEASE}}),
        ("renew", {"lease_keepalive": {"error": {"grpc_code": 14, "message": "canary"}}}),
        ("renew", {"lease_keepalive": {"result": "canary"}}),
        ("renew", {"lease_keepalive": {"status": 401, "body": b"canary"}}),
        ("renew", {"kv_range": {"kvs": "canary"}}),
        ("renew", {"kv_range": {"kvs": ["canary"]}}),
        ("renew", {"kv_range": {"status": 503, "body": b"canary"}}),
        ("deregister", {"kv_deleterange": {"status": 403, "body": b"canary"}}),
        ("deregister", {"kv_deleterange": requests.ConnectionError("canary")}),
    ],
)
def test_whatever_else_is_answered_is_a_failure_that_repeats_nothing_of_it(
    cluster: responses.RequestsMock, announced: Make, method: str, changed: dict[str, Any]
) -> None:
    registry = etcd(announced)
    if method != "register":
        registry.register()
    answers(cluster, ONE, **changed)
    with pytest.raises(RegistryFailed) as caught:
        getattr(registry, method)()
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "fault", [requests.ConnectionError(), {"status": 503, "body": b""}], ids=["away", "503"]
)
def test_the_next_endpoint_is_asked_when_one_fails_and_is_stayed_with(
    cluster: responses.RequestsMock, announced: Make, fault: Any
) -> None:
    answers(cluster, ONE, lease_grant=fault)
    answers(cluster, TWO)
    answers(cluster, THREE)
    registry = etcd(announced, ONE, TWO, THREE)
    registry.register()
    assert registry.renew()
    assert hosts(cluster) == [ONE, TWO, TWO, TWO, TWO]


def test_all_endpoints_are_asked_once_before_it_is_a_failure(
    cluster: responses.RequestsMock, announced: Make
) -> None:
    for each in (ONE, TWO, THREE):
        answers(cluster, each, kv_deleterange=requests.ConnectionError())
    with pytest.raises(RegistryFailed):
        etcd(announced, ONE, TWO, THREE).deregister()
    assert hosts(cluster) == [ONE, TWO, THREE]


def test_who_refuses_speaks_for_all(cluster: responses.RequestsMock, announced: Make) -> None:
    answers(cluster, ONE, lease_grant={"status": 403, "body": b""})
    answers(cluster, TWO)
    with pytest.raises(RegistryFailed, match="403"):
        etcd(announced, ONE, TWO).register()
    assert hosts(cluster) == [ONE]


def test_two_renewals_may_fail_before_the_lease_is_over() -> None:
    assert 3 * Etcd.interval <= TTL
