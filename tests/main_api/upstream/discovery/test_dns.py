"""The DNS from memory: dnspython's own resolver before a name server that answers by a table."""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from dns.rdatatype import RdataType
from hypothesis import given, settings
from hypothesis import strategies as st

from main_api.upstream.discovery import dns as discovery_dns
from main_api.upstream.discovery.dns import READ_SECONDS, AddressRecords, ServiceRecords, name_servers
from main_api.upstream.discovery.source import Address, Listing, SourceFailed
from tests.main_api.policies.fakes import Clock

HOST = "s.test."
SERVICE = "_http._tcp.s.test."


class Says(NamedTuple):
    """What is answered: records as ``name ttl type data``, in the answer and in the additional section."""

    answer: tuple[str, ...] = ()
    additional: tuple[str, ...] = ()
    rcode: str = "NOERROR"
    truncated: bool = False


NOTHING = Says()
NO_NAME = Says(rcode="NXDOMAIN")
SERVFAIL = Says(rcode="SERVFAIL")


def says(*answer: str, additional: tuple[str, ...] = ()) -> Says:
    return Says(answer, additional)


class NameServer(dns.nameserver.AddressAndPortNameserver):
    """Answers by a table of (name, type); what is not in it does not exist."""

    def __init__(self, table: dict[tuple[str, str], Says | Exception]) -> None:
        super().__init__("192.0.2.53", 53)
        self.table = table
        self.asked: list[tuple[str, str]] = []
        self.over_tcp: list[bool] = []

    def kind(self) -> str:
        return "memory"

    def query(  # type: ignore[override]
        self, request: dns.message.QueryMessage, *, max_size: bool, **_: Any
    ) -> dns.message.Message:
        question = request.question[0]
        key = (str(question.name).lower(), question.rdtype.name)
        self.asked.append(key)
        self.over_tcp.append(max_size)
        said = self.table.get(key, NO_NAME)
        if isinstance(said, Exception):
            raise said
        if said.truncated and not self.over_tcp[-1]:
            raise dns.message.Truncated(message=request)
        return response(request, said)


def response(request: dns.message.QueryMessage, said: Says) -> dns.message.Message:
    made = dns.message.make_response(request)
    made.set_rcode(dns.rcode.from_text(said.rcode))
    for section, records in ((made.answer, said.answer), (made.additional, said.additional)):
        for record in records:
            name, ttl, kind, data = record.split(" ", 3)
            found = made.find_rrset(section, dns.name.from_text(name), 1, RdataType[kind], create=True)
            found.update(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    # As it comes over the wire.
    return dns.message.from_wire(made.to_wire())


def asking(table: dict[tuple[str, str], Says | Exception]) -> tuple[dns.resolver.Resolver, NameServer]:
    resolver, server = name_servers([("192.0.2.53", 53)]), NameServer(table)
    resolver.nameservers = [server]
    return resolver, server


def addresses(a: Says | Exception, aaaa: Says | Exception = NOTHING) -> AddressRecords:
    resolver, _ = asking({(HOST, "A"): a, (HOST, "AAAA"): aaaa})
    return AddressRecords("dns://s.test.:3001", HOST, 3001, resolver=resolver)


def service(
    srv: Says | Exception, **targets: tuple[Says | Exception, Says | Exception]
) -> tuple[ServiceRecords, NameServer]:
    """Make a source before SRV records and the A and AAAA records of ``targets`` (``a`` is a.test.)."""
    table: dict[tuple[str, str], Says | Exception] = {(SERVICE, "SRV"): srv}
    for name, (a, aaaa) in targets.items():
        table[f"{name}.test.", "A"] = a
        table[f"{name}.test.", "AAAA"] = aaaa
    resolver, server = asking(table)
    return ServiceRecords("srv://_http._tcp.s.test.", SERVICE, resolver=resolver), server


def fails(source: AddressRecords | ServiceRecords) -> str:
    with pytest.raises(SourceFailed) as caught:
        source.read()
    return str(caught.value)


A = says("s.test. 20 A 10.0.0.2", "s.test. 20 A 10.0.0.1")
AAAA = says("s.test. 10 AAAA 2001:DB8:0::1")


# Addresses.


def test_every_address_of_both_families_is_an_instance_at_the_port() -> None:
    assert addresses(A, AAAA).read() == Listing(
        (Address("10.0.0.1", 3001), Address("10.0.0.2", 3001), Address("2001:db8::1", 3001)), 10.0
    )


def test_the_smallest_ttl_counts_that_of_an_alias_too() -> None:
    chain = says("s.test. 7 CNAME t.test.", "t.test. 9 CNAME u.test.", "u.test. 20 A 10.0.0.1")

    assert addresses(chain).read() == Listing((Address("10.0.0.1", 3001),), 7.0)
    assert addresses(A, chain_of("AAAA", "2001:db8::1")).read().again == 3.0
    assert addresses(chain_of("A", "10.0.0.1"), AAAA).read().again == 3.0


def chain_of(kind: str, ip: str) -> Says:
    return says("s.test. 20 CNAME t.test.", f"t.test. 3 {kind} {ip}")


@pytest.mark.parametrize(("ttl", "again"), [(0, 0.5), (1, 1.0), (30, 30.0), (31, 30.0), (2**31 - 1, 30.0)])
def test_it_is_asked_again_when_the_records_end_within_bounds(ttl: int, again: float) -> None:
    assert addresses(says(f"s.test. {ttl} A 10.0.0.1")).read().again == again


def test_an_address_is_written_as_it_is_elsewhere() -> None:
    both = addresses(says("s.test. 5 A 10.0.0.1"), says("s.test. 5 AAAA ::ffff:10.0.0.1"))

    assert both.read().addresses == (Address("10.0.0.1", 3001),)


@pytest.mark.parametrize("other", [NOTHING, NO_NAME], ids=["no record", "no name"])
def test_a_family_that_certainly_is_not_there_is_not_missed(other: Says) -> None:
    assert addresses(A, other).read().addresses == (Address("10.0.0.1", 3001), Address("10.0.0.2", 3001))


def test_a_name_without_ipv4_is_no_fault() -> None:
    assert addresses(NOTHING, AAAA).read().addresses == (Address("2001:db8::1", 3001),)


@pytest.mark.parametrize(
    ("a", "aaaa", "text"),
    [
        (NO_NAME, AAAA, "s.test.: no such name"),
        (NOTHING, NOTHING, "s.test.: no address"),
        (NOTHING, NO_NAME, "s.test.: no address"),
        (SERVFAIL, AAAA, "A of s.test.: SERVFAIL"),
        (A, SERVFAIL, "AAAA of s.test.: SERVFAIL"),
        (A, Says(rcode="REFUSED"), "AAAA of s.test.: REFUSED"),
        (A, OSError(113, "No route to host"), "AAAA of s.test.: OSError"),
        (dns.exception.FormError(), AAAA, "A of s.test.: FormError"),
        (Says(rcode="YXDOMAIN"), AAAA, "A of s.test.: YXDOMAIN"),
        (says("s.test. 5 CNAME s.test."), AAAA, "A of s.test.: ChainTooLong"),
    ],
)
def test_half_a_list_is_a_fault_and_said_in_few_words(
    a: Says | Exception, aaaa: Says | Exception, text: str
) -> None:
    source = addresses(a, aaaa)

    assert [fails(source), fails(source)] == [text, text]


def test_the_same_fault_is_the_same_text_whichever_server_has_it() -> None:
    for order in (1, -1):
        resolver, refusing = asking({(HOST, "A"): Says(rcode="REFUSED")})
        failing = NameServer({(HOST, "A"): SERVFAIL})
        resolver.nameservers = [refusing, failing][::order]
        source = AddressRecords("dns://s.test.:3001", HOST, 3001, resolver=resolver)
        assert fails(source) == "A of s.test.: REFUSED, SERVFAIL"


class Slow:
    """Stands in for a resolver that needs ``seconds`` for each question."""

    def __init__(self, clock: Clock, seconds: float, resolver: dns.resolver.Resolver) -> None:
        self.clock = clock
        self.seconds = seconds
        self.resolver = resolver
        self.lifetimes: list[float] = []

    def resolve(
        self, qname: dns.name.Name, rdtype: RdataType, *, raise_on_no_answer: bool, lifetime: float
    ) -> dns.resolver.Answer:
        self.lifetimes.append(lifetime)
        self.clock.now += min(self.seconds, lifetime)
        if self.seconds > lifetime:
            raise dns.resolver.LifetimeTimeout(timeout=lifetime, errors=[])  # type: ignore[no-untyped-call]
        return self.resolver.resolve(qname, rdtype, raise_on_no_answer=raise_on_no_answer)


@pytest.mark.parametrize(
    ("seconds", "text", "asked"),
    [
        (2.0, "A of s.test.: no answer in time", 1),
        (1.0, "AAAA of s.test.: no answer in time", 2),
        (READ_SECONDS, "AAAA of s.test.: no answer in time", 1),
    ],
)
def test_all_questions_of_a_read_share_its_time(seconds: float, text: str, asked: int) -> None:
    clock = Clock()
    slow = Slow(clock, seconds, asking({(HOST, "A"): A, (HOST, "AAAA"): AAAA})[0])
    source = AddressRecords("dns://s.test.:3001", HOST, 3001, resolver=slow, clock=clock)

    assert fails(source) == text
    assert slow.lifetimes == pytest.approx([READ_SECONDS, READ_SECONDS - seconds][:asked])


def test_a_question_is_repeated_while_there_is_time() -> None:
    made = name_servers([("192.0.2.53", 53)])

    assert made.timeout < READ_SECONDS / 2
    assert made.cache is None


def test_after_close_each_read_fails() -> None:
    source = addresses(A)
    source.close()

    assert [fails(source), fails(source)] == ["closed", "closed"]


def test_close_under_a_read_ends_it_with_the_question() -> None:
    resolver, server = asking({(HOST, "A"): A, (HOST, "AAAA"): AAAA})
    source = AddressRecords("dns://s.test.:3001", HOST, 3001, resolver=resolver)
    query = server.query

    def closing(*arguments: Any, **named: Any) -> dns.message.Message:
        source.close()
        return query(*arguments, **named)

    server.query = closing  # type: ignore[method-assign]

    assert fails(source) == "closed"
    assert server.asked == [(HOST, "A")]


# Names, and who is asked.


def conf(folder: Path, text: str) -> str:
    path = folder / "resolv.conf"
    path.write_text(text)
    return str(path)


KUBERNETES = (
    "nameserver 192.0.2.53\nsearch ns.svc.cluster.local svc.cluster.local\noptions ndots:5 timeout:30\n"
)


@pytest.mark.parametrize(
    ("host", "found_at", "asked"),
    [
        # No dot at the end: the whole list first, as ndots:5 has it.
        (
            "s.other",
            "s.other.svc.cluster.local.",
            ["A s.other.ns.svc.cluster.local.", "A s.other.svc.cluster.local."],
        ),
        ("s", "s.ns.svc.cluster.local.", ["A s.ns.svc.cluster.local."]),
        ("s.test", "s.test.", ["A s.test.ns.svc.cluster.local.", "A s.test.svc.cluster.local.", "A s.test."]),
        # With the dot: nothing else.
        ("s.test.", "s.test.", ["A s.test."]),
    ],
)
def test_a_name_means_what_resolv_conf_says(
    host: str, found_at: str, asked: list[str], tmp_path: Path
) -> None:
    resolver = name_servers(resolv_conf=conf(tmp_path, KUBERNETES))
    server = NameServer({(found_at, "A"): says(f"{found_at} 5 A 10.0.0.1"), (found_at, "AAAA"): NOTHING})
    resolver.nameservers = [server]

    source = AddressRecords("dns://s:1", host, 1, resolver=resolver)

    assert source.read().addresses == (Address("10.0.0.1", 1),)
    # The other family of the name that was found, not of another one.
    assert [f"{kind} {name}" for name, kind in server.asked] == [*asked, f"AAAA {found_at}"]


def test_ndots_is_one_where_nothing_is_said(tmp_path: Path) -> None:
    resolver = name_servers(resolv_conf=conf(tmp_path, "nameserver 192.0.2.53\nsearch other.test\n"))
    server = NameServer({("s.test.", "A"): A})
    resolver.nameservers = [server]

    AddressRecords("dns://s.test:1", "s.test", 1, resolver=resolver).read()
    assert server.asked[0] == ("s.test.", "A")


@pytest.mark.parametrize("host", ["s", "s."])
def test_servers_that_are_named_know_no_search_list(host: str) -> None:
    resolver, server = asking({("s.", "A"): says("s. 5 A 10.0.0.1")})
    resolver.search = [dns.name.from_text("other.test.")]
    assert AddressRecords("dns://s:1", host, 1, resolver=resolver).read().addresses
    assert {name for name, _ in server.asked} == {"s."}


def test_the_servers_are_those_that_are_given() -> None:
    made = name_servers([("192.0.2.1", 53), ("2001:db8::1", 5353)])

    assert [str(each) for each in made.nameservers] == ["Do53:192.0.2.1@53", "Do53:2001:db8::1@5353"]


def test_the_servers_of_resolv_conf_are_asked_in_our_time(tmp_path: Path) -> None:
    made = name_servers(resolv_conf=conf(tmp_path, KUBERNETES))

    assert made.nameservers == ["192.0.2.53"]
    assert made.timeout == 0.5


@pytest.mark.parametrize("text", [None, "", "search other.test\n"])
def test_without_a_server_in_resolv_conf_this_machine_is_asked(text: str | None, tmp_path: Path) -> None:
    path = str(tmp_path / "missing") if text is None else conf(tmp_path, text)

    assert name_servers(resolv_conf=path).nameservers == ["127.0.0.1"]


def test_a_server_is_an_ip_address() -> None:
    with pytest.raises(ValueError, match=r"^servers: an IP address needed, not 'name'$"):
        name_servers([("name", 53)])


@pytest.mark.parametrize("host", ["a..b", "a" * 64, ".".join(["abcdefgh"] * 40), "\\300"])
def test_what_can_be_no_name_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="is no name: "):
        AddressRecords("dns://s:1", host, 1, servers=[("192.0.2.53", 53)])


def test_a_cut_off_answer_is_asked_for_again_over_tcp() -> None:
    resolver, server = asking({(HOST, "A"): A._replace(truncated=True), (HOST, "AAAA"): NOTHING})
    source = AddressRecords("dns://s.test.:3001", HOST, 3001, resolver=resolver)

    assert len(source.read().addresses) == 2
    assert server.over_tcp == [False, True, False]


# SRV records.


def records(*data: str, ttl: int = 20) -> tuple[str, ...]:
    return tuple(f"{SERVICE} {ttl} SRV {each}" for each in data)


A_ONE = (says("a.test. 9 A 10.0.0.1"), NOTHING)
B_TWO = (says("b.test. 12 A 10.0.0.2"), says("b.test. 8 AAAA 2001:db8::2"))


def test_each_address_of_a_target_is_an_instance_at_the_port_of_the_record() -> None:
    source, _ = service(says(*records("0 2 3001 a.test.", "0 3 3002 b.test.")), a=A_ONE, b=B_TWO)

    assert source.read() == Listing(
        (Address("10.0.0.1", 3001, 2), Address("10.0.0.2", 3002, 3), Address("2001:db8::2", 3002, 3)), 8.0
    )


def test_what_the_additional_section_tells_is_not_asked_for() -> None:
    more = (
        "A.test. 5 A 10.0.0.1",
        "a.test. 6 AAAA ::ffff:10.0.0.9",
        "c.test. 1 A 10.0.0.3",
        "a.test. 1 TXT x",
    )
    source, server = service(says(*records("0 1 3001 a.test.", "0 1 3001 b.test."), additional=more), b=B_TWO)

    assert source.read() == Listing(
        tuple(sorted(Address(ip, 3001) for ip in ("10.0.0.1", "10.0.0.9", "10.0.0.2", "2001:db8::2"))), 5.0
    )
    assert server.asked == [(SERVICE, "SRV"), ("b.test.", "A"), ("b.test.", "AAAA")]


def test_only_the_lowest_priority_is_used() -> None:
    source, server = service(
        says(*records("20 1 3001 b.test.", "10 1 3001 a.test.", "65535 1 1 c.test.")), a=A_ONE, b=B_TWO
    )

    assert source.read() == Listing((Address("10.0.0.1", 3001),), 9.0)
    assert ("b.test.", "A") not in server.asked


@pytest.mark.parametrize(("weight", "counted"), [(0, 1), (1, 1), (1000, 1000), (1001, 1000), (65535, 1000)])
def test_a_weight_is_kept_within_bounds(weight: int, counted: int) -> None:
    source, _ = service(says(*records(f"0 {weight} 3001 a.test.")), a=A_ONE)

    assert source.read().addresses == (Address("10.0.0.1", 3001, counted),)


def test_a_target_is_asked_for_once() -> None:
    source, server = service(says(*records("0 1 1 a.test.", "0 1 2 A.test.")), a=A_ONE)

    assert source.read().addresses == (Address("10.0.0.1", 1), Address("10.0.0.1", 2))
    assert server.asked.count(("a.test.", "A")) == 1


def test_the_ttl_of_the_records_counts() -> None:
    source, _ = service(says(*records("0 1 1 a.test.", ttl=4)), a=A_ONE)

    assert source.read().again == 4.0


@pytest.mark.parametrize("missing", [NO_NAME, NOTHING])
def test_what_is_of_no_use_is_left_out_and_told_once(missing: Says, caplog: pytest.LogCaptureFixture) -> None:
    useless = records("0 1 0 a.test.", "0 1 3001 .", "0 1 3001 c.test.")
    source, server = service(says(*useless, *records("0 1 3001 a.test.")), a=A_ONE, c=(missing, missing))

    for _ in range(2):
        assert source.read().addresses == (Address("10.0.0.1", 3001),)
    server.table[SERVICE, "SRV"] = says(*records("0 1 3001 a.test."))
    source.read()
    server.table[SERVICE, "SRV"] = says(*records("0 1 3001 a.test.", "0 1 0 b.test."))
    source.read()

    name = "srv://_http._tcp.s.test."
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == [
        f"{name}: 3 SRV records are of no use, such as 0 1 0 a.test., 0 1 3001 ., 0 1 3001 c.test.",
        f"{name}: 1 SRV records are of no use, such as 0 1 0 b.test.",
    ]


@pytest.mark.parametrize(
    ("srv", "a", "text"),
    [
        (NO_NAME, A_ONE, f"{SERVICE}: no such name"),
        (NOTHING, A_ONE, f"{SERVICE}: no SRV record"),
        (SERVFAIL, A_ONE, f"SRV of {SERVICE}: SERVFAIL"),
        (says(*records("0 0 0 .")), A_ONE, f"{SERVICE}: no SRV record of any use"),
        (says(*records("0 1 3001 a.test.")), (NO_NAME, NO_NAME), f"{SERVICE}: no SRV record of any use"),
        # Half of a list would look like a whole one.
        (says(*records("0 1 1 a.test.", "0 1 1 b.test.")), (SERVFAIL, NOTHING), "A of a.test.: SERVFAIL"),
        (says(*records("0 1 1 a.test.", "0 1 1 b.test.")), (NOTHING, SERVFAIL), "AAAA of a.test.: SERVFAIL"),
    ],
)
def test_what_is_no_list_is_a_fault(
    srv: Says, a: tuple[Says | Exception, Says | Exception], text: str
) -> None:
    source, _ = service(srv, a=a, b=B_TWO)

    assert fails(source) == text


@pytest.mark.parametrize("make", [AddressRecords, ServiceRecords])
def test_silence_is_a_fault(make: Callable[..., AddressRecords | ServiceRecords]) -> None:
    clock = Clock()
    slow = Slow(clock, 3.0, asking({})[0])
    port = (1,) if make is AddressRecords else ()

    assert fails(make("name", HOST, *port, resolver=slow, clock=clock)).endswith(": no answer in time")


SRV = st.tuples(st.integers(0, 3), st.integers(0, 65535), st.integers(0, 2), st.sampled_from("abcd."))


@settings(deadline=None)
@given(st.sets(SRV, max_size=8), st.sets(st.sampled_from("abc")), st.integers(0, 100))
def test_any_records_are_a_list_or_a_fault(
    data: set[tuple[int, int, int, str]], additional: Iterable[str], ttl: int
) -> None:
    ips = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
    lines = [f"{p} {w} {port} {t if t == '.' else t + '.test.'}" for p, w, port, t in data]
    more = tuple(f"{name}.test. {ttl} A {ips[name]}" for name in additional)
    known = {name: (says(f"{name}.test. {ttl} A {ip}"), NOTHING) for name, ip in ips.items()}
    source, _ = service(says(*records(*lines), additional=more), **known)
    useful = [each for each in data if each[2] and each[3] != "."]
    first = min((each[0] for each in useful), default=0)
    expected = {
        (ips[target], port, min(max(weight, 1), 1000))
        for priority, weight, port, target in useful
        if priority == first and target in ips
    }

    if not expected:
        assert fails(source).startswith(SERVICE)
        return
    listing = source.read()
    assert listing.addresses == tuple(sorted(Address(*each) for each in expected))
    assert 0.5 <= listing.again == min(max(min(ttl, 20), 0.5), 30)


@settings(deadline=None)
@given(st.data())
def test_any_bytes_are_a_list_or_a_fault(data: st.DataObject) -> None:
    class Broken(NameServer):
        def query(  # type: ignore[override]
            self, request: dns.message.QueryMessage, **named: Any
        ) -> dns.message.Message:
            wire = bytearray(super().query(request, **named).to_wire())
            for place in data.draw(st.lists(st.integers(2, len(wire) - 1), max_size=4)):
                wire[place] = data.draw(st.integers(0, 255))
            try:
                return dns.message.from_wire(bytes(wire[: data.draw(st.integers(10, len(wire)))]))
            except Exception as error:
                raise dns.exception.FormError from error

    more = ("a.test. 6 A 10.0.0.1",)
    table: dict[tuple[str, str], Says | Exception] = {
        (SERVICE, "SRV"): says(*records("0 1 3001 a.test.", "0 1 3001 b.test."), additional=more),
        ("b.test.", "A"): B_TWO[0],
        ("b.test.", "AAAA"): B_TWO[1],
    }
    resolver = name_servers([("192.0.2.53", 53)])
    resolver.nameservers = [Broken(table)]
    with suppress(SourceFailed):
        assert isinstance(ServiceRecords("srv://s", SERVICE, resolver=resolver).read(), Listing)


def test_no_more_than_five_are_named(caplog: pytest.LogCaptureFixture) -> None:
    source, _ = service(says(*records(*(f"0 1 0 t{n}.test." for n in range(9)), "0 1 1 a.test.")), a=A_ONE)
    source.read()

    [told] = caplog.records
    assert told.getMessage().count(".test.,") == discovery_dns._NAMED_MOST - 1
