"""The client's address: one function answers it for the log, the limiter and the metrics."""

import ipaddress
import logging
from collections.abc import Sequence
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

log = logging.getLogger(__name__)

# Characters of an entry: an IPv6 address with its zone, in brackets, with a port. Those read are remembered,
# and nobody is to have the memory filled with what is none.
_ENTRY_MOST = 100


class ClientAddress:
    """The function ``(peer, x_forwarded_for) -> address`` for the proxies in ``trusted``.

    The answer is the peer's address, unless the peer is trusted: then the right-most entry of
    ``X-Forwarded-For`` that is not trusted itself. An entry that is no address ends the search, for
    whatever stands left of it was written by nobody we know; so the answer is always the peer or an
    address that a trusted proxy vouched for. IPv4-mapped IPv6 addresses are given as IPv4.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)
        self._warned = False
        self._is_trusted = lru_cache(maxsize=4096)(self._look_up)

    def __call__(self, peer: str, forwarded_for: str = "") -> str:
        """Find the client behind ``peer``; a peer without an address (a Unix socket) is given as it is."""
        nearest = _parse(peer)
        if nearest is None or not forwarded_for:
            return str(nearest or peer)
        if not self._is_trusted(nearest):
            self._warn_once(nearest)
            return str(nearest)
        for entry in reversed(forwarded_for.split(",")):
            entry = entry.strip()
            address = _parse(entry) if len(entry) <= _ENTRY_MOST else None
            if address is None:
                break
            nearest = address
            if not self._is_trusted(address):
                break
        return str(nearest)

    def trusts(self, peer: str) -> bool:
        """Whether ``peer`` is one of the trusted proxies, so that its forwarding headers count."""
        address = _parse(peer)
        return address is not None and self._is_trusted(address)

    def _look_up(self, address: Address) -> bool:
        return any(address in network for network in self._trusted if network.version == address.version)

    def _warn_once(self, peer: Address) -> None:
        # A private peer that forwards is most likely a proxy that nobody told us of.
        if self._warned or not peer.is_private:
            return
        self._warned = True
        log.warning(
            "X-Forwarded-For from %s is ignored: if that is your load balancer, put its network into "
            "TRUSTED_PROXIES; until then all its clients count as one",
            peer,
        )


@lru_cache(maxsize=4096)
def _parse(entry: str) -> Address | None:
    """Read an address as proxies write it: bare, in brackets, with a port (RFC 7239, section 6)."""
    if entry.startswith("["):
        entry = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    try:
        address = ipaddress.ip_address(entry.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
