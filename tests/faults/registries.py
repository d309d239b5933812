"""The registries as a gateway sees them: one interface for all, over the servers that the tests run."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from tests.end_to_end.processes import HOST
from tests.faults.consul import Consul
from tests.faults.dns_server import DnsServer, dns_server
from tests.faults.etcd_server import EtcdServer, etcd_server
from tests.faults.instances import Upstream

SERVICE = "auxiliary-service"
NAME = "_http._tcp.auxiliary.test"
PREFIX = f"services/{SERVICE}"


class Registry(Protocol):
    """Lists instances, and fails on demand."""

    environment: dict[str, str]
    # Seconds after which a change holds for new requests.
    soon: float
    # What it can do to its lists, by name; `back` ends each.
    faults: dict[str, Callable[[], object]]

    def add(self, instance: Upstream) -> None:
        """List ``instance``."""

    def remove(self, instance: Upstream) -> None:
        """List it no longer."""

    def back(self) -> None:
        """End what fails."""


class ByConsul:
    """``consul://``."""

    soon = 1.0

    def __init__(self, consul: Consul) -> None:
        self._consul = consul
        self.environment = {
            "AUXILIARY_SERVICE_URL": f"consul://{SERVICE}",
            "CONSUL_HTTP_ADDR": consul.url,
            "CONSUL_HTTP_TOKEN": "a-token-for-tests",
        }
        self.faults = {
            "down": consul.refuse,
            "hanging": consul.hang,
            "500": lambda: consul.status(500),
            "429": lambda: consul.status(429),
            "garbage": consul.garbage,
            "empty": consul.empty,
            "a thousand": consul.thousand,
        }

    def add(self, instance: Upstream) -> None:
        self._consul.add(f"on-{instance.port}", HOST, instance.port)

    def remove(self, instance: Upstream) -> None:
        self._consul.remove(f"on-{instance.port}")

    def back(self) -> None:
        self._consul.back()


class ByEtcd:
    """``etcd://``."""

    soon = 1.0

    def __init__(self, etcd: EtcdServer) -> None:
        self._etcd = etcd
        self._listed: dict[str, str] = {}
        self.environment = {"AUXILIARY_SERVICE_URL": f"etcd://{PREFIX}", "ETCD_ENDPOINTS": etcd.url}
        self.faults = {
            "down": etcd.stop,
            "hanging": etcd.pause,
            "garbage": self._garbage,
            "empty": lambda: etcd.delete(f"{PREFIX}/", f"{PREFIX}0"),
            "a thousand": self._thousand,
        }

    def add(self, instance: Upstream) -> None:
        key, value = f"{PREFIX}/{instance.port}", json.dumps({"Op": 0, "Addr": f"{HOST}:{instance.port}"})
        self._listed[key] = value
        self._etcd.put(key, value)

    def remove(self, instance: Upstream) -> None:
        self._listed.pop(f"{PREFIX}/{instance.port}")
        self._etcd.delete(f"{PREFIX}/{instance.port}")

    def back(self) -> None:
        if not self._etcd.running:
            self._etcd.start()
        self._etcd.cont()
        self._etcd.delete(f"{PREFIX}/", f"{PREFIX}0")
        for key, value in self._listed.items():
            self._etcd.put(key, value)

    def _garbage(self) -> None:
        for key in self._listed:
            self._etcd.put(key, b"\xff<html>\x00")

    def _thousand(self) -> None:
        for number in range(1000):
            value = json.dumps({"Op": 0, "Addr": f"127.1.{number // 250}.{number % 250}:1"})
            self._etcd.put(f"{PREFIX}/of-somebody-{number}", value)


class ByDns:
    """``srv://``."""

    # A second that the records live, and one more.
    soon = 2.0

    def __init__(self, dns: DnsServer) -> None:
        self._dns = dns
        self._ports: list[int] = []
        self._dns.names({"one.test": [HOST]})
        ip, port = dns.server
        self.environment = {"AUXILIARY_SERVICE_URL": f"srv://{NAME}.", "DNS_SERVERS": f"{ip}:{port}"}
        self.faults: dict[str, Callable[[], object]] = {
            "down": dns.stop,
            "hanging": dns.pause,
            "empty": lambda: dns.services({}),
            "a thousand": lambda: dns.services({NAME: [f"0 1 {port} one.test." for port in range(1, 1001)]}),
        }

    def add(self, instance: Upstream) -> None:
        self._ports.append(instance.port)
        self._write()

    def remove(self, instance: Upstream) -> None:
        self._ports.remove(instance.port)
        self._write()

    def back(self) -> None:
        if not self._dns.running:
            self._dns.start()
        self._dns.cont()
        self._write()

    def _write(self) -> None:
        self._dns.services({NAME: [f"0 1 {port} one.test." for port in self._ports]})


@contextmanager
def by_consul() -> Iterator[Registry]:
    """Run a Consul."""
    consul = Consul(token="a-token-for-tests")
    consul.start()
    try:
        yield ByConsul(consul)
    finally:
        consul.close()


@contextmanager
def by_etcd() -> Iterator[Registry]:
    """Run an etcd."""
    with etcd_server() as etcd:
        yield ByEtcd(etcd)


@contextmanager
def by_dns() -> Iterator[Registry]:
    """Run a dnsmasq."""
    with dns_server() as dns:
        yield ByDns(dns)


REGISTRIES = {"consul": by_consul, "etcd": by_etcd, "dns": by_dns}
