"""The instances of a service."""

from collections.abc import Iterable

from main_api.exchange import Instance


def static(service: str, urls: Iterable[str]) -> tuple[Instance, ...]:
    """Give the instances that the configuration lists, in its order, each once."""
    return tuple(Instance(service, url) for url in dict.fromkeys(urls))
