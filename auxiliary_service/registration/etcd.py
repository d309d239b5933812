"""etcd: a key that lives as long as its lease, written as etcd's own naming package writes it.

Over the JSON gateway of version 3, where bytes are base64 and 64-bit numbers are text.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from auxiliary_service.registration.registry import Announced, Registry, RegistryFailed
from auxiliary_service.registration.session import Answer, Session

# Seconds that the key outlives the last renewal; two renewals may fail before it is gone.
TTL = 15


class Etcd(Registry):
    """The cluster behind ``endpoints``; what each method promises, :class:`Registry` says.

    They are asked in turn, beginning with the one that answered last; one that refuses by its status
    speaks for all, unless it fails itself (5xx).
    """

    interval = TTL / 3

    def __init__(self, announced: Announced, endpoints: Sequence[str], prefix: str) -> None:
        self.name = f"etcd at {', '.join(endpoints)}"
        self._announced = announced
        self._endpoints = list(endpoints)
        self._key = b64encode(f"{prefix}/{announced.id}".encode()).decode()
        self._session = Session()
        self._lease = 0

    def register(self) -> None:
        """Write the key under a new lease; what is left of an older one ends by itself."""
        value = self._value()
        self._lease = _whole(self._done("/v3/lease/grant", {"TTL": str(TTL)}).get("ID"))
        if not self._lease:
            raise RegistryFailed("grants a lease without an ID")
        put = {"key": self._key, "value": value, "lease": str(self._lease)}
        self._done("/v3/kv/put", put)

    def renew(self) -> bool:
        """Renew the lease, and look whether the key is still there and lives by it."""
        kept = self._done("/v3/lease/keepalive", {"ID": str(self._lease)}).get("result")
        if not isinstance(kept, dict):
            raise RegistryFailed("renews no lease and does not say why")
        if _whole(kept.get("TTL")) <= 0:  # what is said of a lease that is not known
            return False
        found = self._done("/v3/kv/range", {"key": self._key}).get("kvs", [])
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise RegistryFailed("answers with something else than keys")
        return any(_whole(each.get("lease")) == self._lease for each in found)

    def deregister(self) -> None:
        """Remove the key, then the lease."""
        self._done("/v3/kv/deleterange", {"key": self._key})
        if self._lease:
            with suppress(RegistryFailed):  # it ends by itself
                self._ask("/v3/lease/revoke", {"ID": str(self._lease)})
            self._lease = 0

    def _value(self) -> str:
        instance = self._announced
        value = {
            "Op": 0,
            "Addr": instance.at(instance.address()),
            "Metadata": {"version": instance.version, "weight": instance.weight},
        }
        return b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()

    def _done(self, path: str, document: object) -> dict[str, Any]:
        answer = self._ask(path, document)
        if answer.status != 200:
            raise answer.refusal()
        return answer.document()

    def _ask(self, path: str, document: object) -> Answer:
        fault = RegistryFailed("has no endpoints")
        for _ in range(len(self._endpoints)):
            try:
                answer = self._session.call("POST", self._endpoints[0] + path, document)
                if answer.status < 500:
                    return answer
                fault = answer.refusal()
            except RegistryFailed as error:
                fault = error
            self._endpoints.append(self._endpoints.pop(0))
        raise fault


def _whole(value: object) -> int:
    """Read a number as the gateway writes it, text or not; 0 for what is none."""
    try:
        return int(value) if isinstance(value, str | int) else 0
    except ValueError:
        return 0
