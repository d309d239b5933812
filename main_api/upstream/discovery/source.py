"""What a registry gives, and the protocol that each kind of registry follows."""

import ipaddress
from dataclasses import dataclass
from typing import Protocol

# What a weight counts as at most.
WEIGHT_MOST = 1000


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where an instance listens: an IP address in its shortest form, a port, its share of the calls."""

    ip: str
    port: int
    weight: int = 1

    @property
    def url(self) -> str:
        """The instance's URL."""
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Listing:
    """All instances that a registry has at a moment, and in how many seconds it is to be asked again.

    ``again`` is 0 where :meth:`Source.read` itself waits for a change.
    """

    addresses: tuple[Address, ...]
    again: float = 0.0


def shortest(text: str) -> str | None:
    """Write an IP address in its shortest form, IPv4 within IPv6 as IPv4.

    Gives None for what is none, or is of one host's own link alone.
    """
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return None if ip.scope_id is not None else str(ip.ipv4_mapped or ip)


class SourceFailed(Exception):
    """The registry is silent, or what it says cannot be right; the text is for operators, without secrets."""


class Source(Protocol):
    """One registry, asked for one service. Used by one thread; only ``close`` may come from another.

    ``name`` is the address that it was configured by, such as ``consul://auxiliary``.
    """

    name: str

    def read(self) -> Listing:
        """Give the whole list: at once the first time and after a failure, else when it may have changed.

        It returns within half a minute, changed or not. Whatever of an answer is of no use (an address
        that is none, a port that is none) is left out, with a log line. Raises :class:`SourceFailed`;
        then it is asked again soon, and begins anew.
        """

    def close(self) -> None:
        """Let go of what it is connected to; a ``read`` that waits fails."""
