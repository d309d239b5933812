"""Instances in the DNS: the addresses of a name, or what its SRV records (RFC 2782) point to.

The system's own look-up (``getaddrinfo``) tells no TTL and knows no SRV, so name servers are asked here.
"""

import logging
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import NamedTuple, Protocol

import dns.exception
import dns.inet
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
from dns.rdatatype import RdataType
from dns.rdtypes.IN.SRV import SRV

from main_api.upstream.discovery.source import WEIGHT_MOST, Address, Listing, SourceFailed, shortest

log = logging.getLogger(__name__)

# Seconds for all questions of one read together, and for one question to one name server, so that it is
# repeated, or another one asked, while there is time. Between two rounds dnspython sleeps, at these numbers
# 0.4 s at most, before it looks at the clock: a read ends within two seconds.
READ_SECONDS = 1.6
_TRY_SECONDS = 0.5
# Seconds between two reads, whatever the TTL is.
AGAIN_LEAST, AGAIN_MOST = 0.5, 30.0
_NAMED_MOST = 5

_FAMILIES = (RdataType.A, RdataType.AAAA)


class Asked(Protocol):
    """What is needed of dnspython's resolver."""

    def resolve(
        self, qname: dns.name.Name, rdtype: RdataType, *, raise_on_no_answer: bool, lifetime: float
    ) -> dns.resolver.Answer:
        """Ask for the records of one type; ``lifetime`` is in seconds."""


def name_servers(
    servers: Sequence[tuple[str, int]] = (), *, resolv_conf: str = "/etc/resolv.conf"
) -> dns.resolver.Resolver:
    """Make a resolver that asks ``servers`` (IP address and port), or those of ``/etc/resolv.conf``.

    A name that ends with a dot is asked for as it is. One that does not is, with ``servers``, asked for
    as if it did. With ``resolv.conf`` it means what it means to every other program on the machine: the
    ``search`` list and ``ndots`` there are followed, so that in Kubernetes a Service may be written
    ``name.namespace``; a whole name is better written with the dot, for ``ndots:5`` puts the whole list
    before it. The file is read once. Without it the name server of this machine is asked (resolv.conf(5)).

    An answer that is cut off is asked for again over TCP. Raises :class:`ValueError` for a wrong address.
    """
    made = dns.resolver.Resolver(configure=False)
    made.use_search_by_default = not servers
    if servers:
        for host, _ in servers:
            if not dns.inet.is_address(host):
                raise ValueError(f"servers: an IP address needed, not {host!r}")
        made.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in servers]
    else:
        try:
            made.read_resolv_conf(resolv_conf)
        except dns.resolver.NoResolverConfiguration:
            made.nameservers = ["127.0.0.1"]
    made.timeout = _TRY_SECONDS
    return made


class Found(NamedTuple):
    """The addresses of a name, for how many seconds they are to be believed, and whether it exists."""

    ips: frozenset[str]
    ttl: float
    exists: bool = True


class _Questions:
    """The questions of one read, which share its time."""

    def __init__(
        self, resolver: Asked, clock: Callable[[], float], closed: Callable[[], bool], seconds: float
    ) -> None:
        self._resolver = resolver
        self._clock = clock
        self._closed = closed
        self._deadline = clock() + seconds

    def ask(self, name: dns.name.Name, kind: RdataType) -> dns.resolver.Answer | None:
        """Ask once; ``None`` when there is no such name. Raises :class:`SourceFailed`."""
        if self._closed():
            raise SourceFailed("closed")
        what = f"{dns.rdatatype.to_text(kind)} of {name}"
        left = self._deadline - self._clock()
        if left <= 0:
            raise SourceFailed(f"{what}: no answer in time")
        try:
            return self._resolver.resolve(name, kind, raise_on_no_answer=False, lifetime=left)
        except dns.resolver.NXDOMAIN:
            return None
        except dns.exception.Timeout as error:
            raise SourceFailed(f"{what}: no answer in time") from error
        except dns.resolver.NoNameservers as error:
            raise SourceFailed(f"{what}: {_refusal(error)}") from error
        except (dns.exception.DNSException, OSError, ValueError, AssertionError) as error:
            # dnspython asserts that an answer is one: what is an update, say, ends in an AssertionError.
            raise SourceFailed(f"{what}: {type(error).__name__}") from error

    def addresses(self, name: dns.name.Name) -> Found:
        """Give both families of a name's addresses; none when it is certain that there are none.

        That a family has no record must be said: "no such record", or for the second family "no such
        name", as some servers answer for AAAA (RFC 4074, 4.2). When one family is answered by silence
        or SERVFAIL the whole look-up fails, for half a list that looks like a whole one would send away
        well instances; the last whole list is better.
        """
        ips: set[str] = set()
        ttl = inf
        for kind in _FAMILIES:
            answer = self.ask(name, kind)
            if answer is None:
                return Found(frozenset(ips), ttl, kind is not RdataType.A)
            # Of a search list the name that was found: not of one name IPv4 and of another IPv6.
            name = answer.qname
            if answer.rrset is not None:
                ips.update(ip for record in answer.rrset if (ip := shortest(record.address)))
                # Of the whole chain of CNAMEs.
                ttl = min(ttl, answer.chaining_result.minimum_ttl)
        return Found(frozenset(ips), ttl)


def _refusal(error: dns.resolver.NoNameservers) -> str:
    """Say what the name servers answered, each answer once, in an order that does not change."""
    answers = set()
    for _, _, _, failure, response in error.kwargs.get("errors", ()):
        if isinstance(response, dns.message.Message) and response.rcode() != dns.rcode.NOERROR:
            answers.add(dns.rcode.to_text(response.rcode()))
        else:
            answers.add(type(failure).__name__)
    return ", ".join(sorted(answers)) or "no name server"


def _again(ttl: float) -> float:
    return min(max(float(ttl), AGAIN_LEAST), AGAIN_MOST)


def _name(text: str) -> dns.name.Name:
    try:
        return dns.name.from_text(text, origin=None)
    except dns.exception.DNSException as error:
        raise ValueError(f"{text!r} is no name: {type(error).__name__}") from error


class _Records:
    def __init__(
        self,
        name: str,
        host: str,
        *,
        servers: Sequence[tuple[str, int]] = (),
        resolver: Asked | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        self._host = _name(host)
        self._resolver = resolver or name_servers(servers)
        self._clock = clock
        self._closed = False

    def close(self) -> None:
        """Ask nothing more; a ``read`` that waits fails when its question ends, within its two seconds."""
        self._closed = True

    def _questions(self) -> _Questions:
        return _Questions(self._resolver, self._clock, lambda: self._closed, READ_SECONDS)


class AddressRecords(_Records):
    """``dns://name:port``: each A and AAAA record is an instance, all at the same port.

    What a name without a dot at its end means, and who is asked, :func:`name_servers` says; ``resolver``
    would stand in for it.
    """

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        *,
        servers: Sequence[tuple[str, int]] = (),
        resolver: Asked | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(name, host, servers=servers, resolver=resolver, clock=clock)
        self._port = port

    def read(self) -> Listing:
        """Ask for the addresses; to be asked again when the first of the records ends."""
        found = self._questions().addresses(self._host)
        if not found.ips:
            raise SourceFailed(f"{self._host}: {'no address' if found.exists else 'no such name'}")
        return Listing(tuple(sorted(Address(ip, self._port) for ip in found.ips)), _again(found.ttl))


class ServiceRecords(_Records):
    """``srv://name``: each address of a target of an SRV record (RFC 2782) is an instance.

    Of the priorities only the lowest number is used; the next one would be for when nobody there can be
    reached, which a list cannot know. The weight is the record's: 0 ("no selection to do") is 1, and more
    than 1000 is 1000. A target's addresses are those in the additional section, or else are asked for; a
    target that has none is left out, one whose look-up fails makes the whole read fail.
    """

    # Targets that were of no use in the last list: told once.
    _useless: frozenset[str] = frozenset()

    def read(self) -> Listing:
        """Ask for the records and their targets; to be asked again when the first of them ends."""
        questions = self._questions()
        answer = questions.ask(self._host, RdataType.SRV)
        if answer is None:
            raise SourceFailed(f"{self._host}: no such name")
        if answer.rrset is None:
            raise SourceFailed(f"{self._host}: no SRV record")
        useless = {str(each) for each in answer.rrset if not _useful(each)}
        records = [each for each in answer.rrset if _useful(each)]
        first = min((each.priority for each in records), default=0)
        found = _additional(answer.response)
        ttl: float = answer.chaining_result.minimum_ttl
        addresses: set[Address] = set()
        for each in records:
            if each.priority != first:
                continue
            if each.target not in found:
                found[each.target] = questions.addresses(each.target)
            ips, target_ttl, _ = found[each.target]
            if not ips:
                useless.add(str(each))
            ttl = min(ttl, target_ttl)
            weight = min(max(each.weight, 1), WEIGHT_MOST)
            addresses.update(Address(ip, each.port, weight) for ip in ips)
        self._tell(frozenset(useless))
        if not addresses:
            raise SourceFailed(f"{self._host}: no SRV record of any use")
        return Listing(tuple(sorted(addresses)), _again(ttl))

    def _tell(self, useless: frozenset[str]) -> None:
        if useless and useless != self._useless:
            log.warning(
                "%s: %d SRV records are of no use, such as %s",
                self.name,
                len(useless),
                ", ".join(sorted(useless)[:_NAMED_MOST]),
            )
        self._useless = useless


def _useful(record: SRV) -> bool:
    """Whether something can listen there; the target "." says that nothing does (RFC 2782)."""
    return bool(record.port) and record.target != dns.name.root


def _additional(response: dns.message.Message) -> dict[dns.name.Name, Found]:
    """Give what an answer tells unasked: it is from whom the addresses would be asked."""
    found: dict[dns.name.Name, Found] = {}
    for rrset in response.additional:
        if rrset.rdtype in _FAMILIES and rrset.rdclass == dns.rdataclass.IN:
            ips, ttl, _ = found.get(rrset.name, Found(frozenset(), inf))
            ips = ips.union(ip for record in rrset if (ip := shortest(record.address)))
            found[rrset.name] = Found(ips, min(ttl, rrset.ttl))
    return found
