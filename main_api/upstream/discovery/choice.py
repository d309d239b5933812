"""Which source an address means."""

from collections.abc import Sequence

from main_api.setting_fields import Registered
from main_api.upstream.discovery.source import Source


def source(
    where: Registered,
    *,
    consul_url: str,
    consul_token: str | None,
    etcd_endpoints: Sequence[str],
    dns_servers: Sequence[tuple[str, int]],
) -> Source:
    """Make the source that ``where`` names; nothing is connected yet."""
    # Each only where it is chosen: who has no registry need not hold the DNS library, some 6 MB a worker.
    if where.kind == "consul":
        from main_api.upstream.discovery.consul import ConsulSource  # noqa: PLC0415 - see above

        return ConsulSource(
            where.text,
            where.name,
            consul_url,
            consul_token,
            datacenter=where.options.get("dc"),
            tag=where.options.get("tag"),
            namespace=where.options.get("ns"),
        )
    if where.kind == "etcd":
        from main_api.upstream.discovery.etcd import EtcdSource  # noqa: PLC0415 - see above

        return EtcdSource(where.text, where.name, etcd_endpoints)
    from main_api.upstream.discovery.dns import AddressRecords, ServiceRecords  # noqa: PLC0415 - see above

    if where.kind == "srv":
        return ServiceRecords(where.text, where.name, servers=dns_servers)
    assert where.port is not None  # noqa: S101 - dns:// has one
    return AddressRecords(where.text, where.name, where.port, servers=dns_servers)
