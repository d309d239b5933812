"""Registering with Consul and etcd, so that gateways find this instance, and leaving them before it stops."""

import re
import socket
from collections.abc import Iterator, Sequence
from functools import partial

from auxiliary_service.registration.address import LocalAddress
from auxiliary_service.registration.keeper import Keeper
from auxiliary_service.registration.locks import FileLock
from auxiliary_service.registration.registry import Announced, Registry
from auxiliary_service.registration.stopping import Departure, Leaving
from auxiliary_service.settings import Settings
from chassis.drain import draining


def keepers(settings: Settings) -> list[Keeper]:
    """Make what keeps this instance registered where the settings say, one for each kind of registry."""
    return [
        Keeper(
            registry,
            leads=FileLock(settings.registration_path(kind, "leader")).take,
            draining=partial(draining, settings.drain_path),
            gate=FileLock(settings.registration_path(kind, "gate")),
        )
        for kind, [registry] in _registries(settings, (settings.etcd_endpoints,))
    ]


def leaving(settings: Settings) -> Leaving:
    """Make what takes this instance off all lists; each endpoint of etcd is asked by itself.

    Asked in turn, one that hangs would use up the time of the others.
    """
    return Leaving(
        settings.drain_path,
        [
            Departure(
                " or ".join(each.name for each in registries),
                FileLock(settings.registration_path(kind, "gate")),
                [each.deregister for each in registries],
            )
            for kind, registries in _registries(settings, [(each,) for each in settings.etcd_endpoints])
        ],
    )


def _registries(
    settings: Settings, etcd_endpoints: Sequence[Sequence[str]]
) -> Iterator[tuple[str, Sequence[Registry]]]:
    """Give each kind of registry that is configured; of etcd one for each group of endpoints."""
    # Not at the top: who registers nowhere, and that one's arbiter, can do without the 4 MB of requests.
    if settings.consul_http_addr:
        from auxiliary_service.registration.consul import Consul  # noqa: PLC0415 - see above

        url = settings.consul_http_addr
        yield "consul", [Consul(_announced(settings, [url]), url, settings.consul_http_token)]
    if settings.etcd_endpoints:
        from auxiliary_service.registration.etcd import Etcd  # noqa: PLC0415 - see above

        announced = _announced(settings, settings.etcd_endpoints)
        yield "etcd", [Etcd(announced, group, settings.etcd_prefix) for group in etcd_endpoints]


def _announced(settings: Settings, urls: Sequence[str]) -> Announced:
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
    given = settings.service_address
    return Announced(
        service=settings.SERVICE,
        id=f"{settings.SERVICE}-{host}-{settings.port}",
        address=(lambda: given) if given else LocalAddress(settings.host, urls),
        port=settings.port,
        version=settings.service_version,
        weight=settings.service_weight,
        environment=settings.app_env,
    )
