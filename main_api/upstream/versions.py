"""The versions that answers show: learnt from the services' own answers, never asked for."""

from collections.abc import Sequence

UNKNOWN = "unknown"


class Versions:
    """This gateway's version and the last one that each service told."""

    def __init__(self, service: str, version: str, upstreams: Sequence[str]) -> None:
        self._own = (service, version)
        self._learnt = dict.fromkeys(upstreams, UNKNOWN)

    def learn(self, service: str, version: str | None) -> None:
        """Remember what an answer of ``service`` said."""
        if version is not None:
            self._learnt[service] = version

    def shown(self, service: str | None = None, version: str | None = None) -> dict[str, str]:
        """Give what a body shows; ``version``, of the answer at hand, goes before what was learnt."""
        versions = dict([self._own, *self._learnt.items()])
        if service is not None and version is not None:
            versions[service] = version
        return versions
