"""The instances of a service."""

import re
from collections.abc import Iterable

from main_api.exchange import Instance

_WEIGHTED = re.compile(r"(?P<url>[^;]+)(?:;weight=(?P<weight>[0-9]+))?\Z")


def static(service: str, addresses: Iterable[str]) -> tuple[Instance, ...]:
    """Give the instances that the configuration lists (``url`` or ``url;weight=n``), in its order, each once.

    Raises :class:`ValueError` for an address that is not of this form.
    """
    made: dict[str, Instance] = {}
    for address in addresses:
        found = _WEIGHTED.match(address)
        if found is None:
            raise ValueError(f"{address!r}: http://host:port or http://host:port;weight=2 needed")
        made.setdefault(found["url"], Instance(service, found["url"], int(found["weight"] or 1)))
    return tuple(made.values())
