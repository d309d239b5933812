"""What Consul's agent is asked, by its documented API, and what is made of its answers."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import responses

from auxiliary_service.registration.consul import Consul
from auxiliary_service.registration.registry import Announced, RegistryFailed

AGENT = "http://127.0.0.1:8500"
SERVICE = f"{AGENT}/v1/agent/service"
ID = "auxiliary-service-pod-3001"
TOKEN = "canary-6f1c"

Make = Callable[..., Announced]


@pytest.fixture
def agent() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


def body(agent: responses.RequestsMock) -> Any:
    return json.loads(agent.calls[0].request.body or b"")


def test_a_registration_says_everything(agent: responses.RequestsMock, announced: Make) -> None:
    agent.put(f"{SERVICE}/register?replace-existing-checks=true", body=b"")
    Consul(announced(), AGENT, TOKEN).register()
    assert body(agent) == {
        "ID": ID,
        "Name": "auxiliary-service",
        "Address": "10.0.0.1",
        "Port": 3001,
        "Tags": ["staging"],
        "Meta": {"version": "1.2.3", "weight": "2", "environment": "staging"},
        "Weights": {"Passing": 2, "Warning": 1},
        "Check": {
            "HTTP": "http://10.0.0.1:3001/health",
            "Interval": "10s",
            "Timeout": "2s",
            "DeregisterCriticalServiceAfter": "1m",
            "Status": "passing",
        },
    }


def test_an_ipv6_address_stands_in_brackets_in_the_check_alone(
    agent: responses.RequestsMock, announced: Make
) -> None:
    agent.put(f"{SERVICE}/register")
    Consul(announced(address=lambda: "fd00::1"), AGENT, None).register()
    assert body(agent)["Address"] == "fd00::1"
    assert body(agent)["Check"]["HTTP"] == "http://[fd00::1]:3001/health"


def test_the_address_is_found_anew_for_each_registration(
    agent: responses.RequestsMock, announced: Make
) -> None:
    agent.put(f"{SERVICE}/register")
    found = iter(["10.0.0.1", "10.0.0.2"])
    consul = Consul(announced(address=lambda: next(found)), AGENT, None)
    consul.register()
    consul.register()
    assert [json.loads(call.request.body or b"")["Address"] for call in agent.calls] == [
        "10.0.0.1",
        "10.0.0.2",
    ]


def test_without_an_address_nothing_is_registered(announced: Make) -> None:
    def fail() -> str:
        raise RegistryFailed("no way")

    with responses.RequestsMock(), pytest.raises(RegistryFailed, match="no way"):
        Consul(announced(address=fail), AGENT, None).register()


def test_the_token_is_in_the_header_of_every_request_and_nowhere_else(
    agent: responses.RequestsMock, announced: Make
) -> None:
    agent.put(f"{SERVICE}/register")
    agent.get(f"{SERVICE}/{ID}", json={"ID": ID})
    agent.put(f"{SERVICE}/deregister/{ID}")
    consul = Consul(announced(), AGENT, TOKEN)
    consul.register()
    consul.renew()
    consul.deregister()
    for call in agent.calls:
        assert call.request.headers["X-Consul-Token"] == TOKEN
        assert TOKEN not in f"{call.request.url}{call.request.body!r}"
    assert TOKEN not in consul.name


def test_without_a_token_there_is_no_such_header(agent: responses.RequestsMock, announced: Make) -> None:
    agent.put(f"{SERVICE}/register")
    Consul(announced(), AGENT, None).register()
    assert "X-Consul-Token" not in agent.calls[0].request.headers


def test_it_is_known_until_the_agent_says_404(agent: responses.RequestsMock, announced: Make) -> None:
    consul = Consul(announced(), AGENT, None)
    agent.get(f"{SERVICE}/{ID}", json={"ID": ID, "Service": "auxiliary-service"})
    assert consul.renew()
    agent.replace("GET", f"{SERVICE}/{ID}", status=404, body=b"unknown service ID")
    assert not consul.renew()


@pytest.mark.parametrize("document", [{}, {"ID": "another"}, {"ID": [ID]}, []], ids=str)
def test_another_answer_than_the_service_is_a_failure(
    agent: responses.RequestsMock, announced: Make, document: Any
) -> None:
    agent.get(f"{SERVICE}/{ID}", json=document)
    with pytest.raises(RegistryFailed):
        Consul(announced(), AGENT, None).renew()


@pytest.mark.parametrize("status", [200, 404])
def test_a_service_is_off_the_list_whether_it_was_on_it_or_not(
    agent: responses.RequestsMock, announced: Make, status: int
) -> None:
    agent.put(f"{SERVICE}/deregister/{ID}", status=status)
    Consul(announced(), AGENT, None).deregister()


@pytest.mark.parametrize("status", [204, 301, 400, 403, 500])
@pytest.mark.parametrize(
    ("method", "verb", "path"),
    [("register", "PUT", "register"), ("renew", "GET", ID), ("deregister", "PUT", f"deregister/{ID}")],
)
def test_any_other_status_is_a_failure(
    agent: responses.RequestsMock, announced: Make, method: str, verb: str, path: str, status: int
) -> None:
    agent.add(verb, f"{SERVICE}/{path}", status=status, body=TOKEN)
    with pytest.raises(RegistryFailed) as caught:
        getattr(Consul(announced(), AGENT, TOKEN), method)()
    assert str(caught.value) == f"answers with status {status}"


def test_an_id_cannot_leave_its_place_in_the_path(agent: responses.RequestsMock, announced: Make) -> None:
    agent.put(f"{SERVICE}/deregister/a%2F..%2Fb%3Fc")
    Consul(announced(id="a/../b?c"), AGENT, None).deregister()
