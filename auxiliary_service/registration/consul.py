"""Consul: the service is registered with the local agent, which checks it from then on."""

from typing import Any
from urllib.parse import quote

from auxiliary_service.registration.registry import Announced, Registry, RegistryFailed
from auxiliary_service.registration.session import Answer, Session

# Seconds between two looks whether the agent still knows the service: one that has started anew may not.
INTERVAL = 3.0


class Consul(Registry):
    """The agent at ``url``, asked with ``token``; what each method promises, :class:`Registry` says."""

    interval = INTERVAL

    def __init__(self, announced: Announced, url: str, token: str | None) -> None:
        self.name = f"Consul at {url}"
        self._announced = announced
        self._url = f"{url}/v1/agent/service"
        self._id = quote(announced.id, safe="")
        self._session = Session({"X-Consul-Token": token} if token else None)

    def register(self) -> None:
        """Register the service and its check, in the place of what was there under its id.

        It begins as passing: else it would be listed after the first check only, 10 s later.
        """
        # Without it a check of an earlier version of this service would stay.
        self._done(
            self._session.call(
                "PUT", f"{self._url}/register?replace-existing-checks=true", self._definition()
            )
        )

    def renew(self) -> bool:
        """Look whether the agent still knows the service."""
        answer = self._session.call("GET", f"{self._url}/{self._id}")
        if answer.status == 404:
            return False
        self._done(answer)
        if answer.document().get("ID") != self._announced.id:
            raise RegistryFailed("answers with another service than the one asked for")
        return True

    def deregister(self) -> None:
        """Remove the service and its check."""
        answer = self._session.call("PUT", f"{self._url}/deregister/{self._id}")
        if answer.status != 404:  # newer agents say so of a service that they do not know
            self._done(answer)

    def _done(self, answer: Answer) -> None:
        if answer.status != 200:
            raise answer.refusal()

    def _definition(self) -> dict[str, Any]:
        instance = self._announced
        address = instance.address()
        return {
            "ID": instance.id,
            "Name": instance.service,
            "Address": address,
            "Port": instance.port,
            "Tags": [instance.environment],
            "Meta": {
                "version": instance.version,
                "weight": str(instance.weight),
                "environment": instance.environment,
            },
            "Weights": {"Passing": instance.weight, "Warning": 1},
            "Check": {
                "HTTP": f"http://{instance.at(address)}/health",
                "Interval": "10s",
                "Timeout": "2s",
                "DeregisterCriticalServiceAfter": "1m",
                "Status": "passing",
            },
        }
