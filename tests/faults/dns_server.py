"""A real dnsmasq in a test's hands: started, stopped, paused, its records changed, and never left behind."""

import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query

from tests.end_to_end.processes import HOST, free_port, until
from tests.faults.child import Child, program

BINARY = "dnsmasq"
# All names that it knows end so; of the others it says that it will not answer (REFUSED).
DOMAIN = "test"
_ASKED_SECONDS = 0.5


class DnsServer(Child):
    """One ``dnsmasq``, which answers for ``test.`` alone: it keeps its port and its records.

    It reads nothing of the system's and writes nothing but in its own folder. Every record's TTL is
    ``ttl``, in seconds.
    """

    def __init__(self, ttl: int = 1) -> None:
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory()
        self._hosts = Path(self._folder.name) / "hosts"
        self._hosts.touch()
        self._arguments = [
            # In debug mode it stays in the foreground, is whom it was started by, writes no pid file and
            # answers over TCP itself: there is one process, and it is ours.
            "--no-daemon",
            "--log-facility=-",
            f"--user={pwd.getpwuid(os.getuid()).pw_name}",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--cache-size=0",
            f"--port={self.port}",
            f"--listen-address={HOST}",
            "--bind-interfaces",
            f"--addn-hosts={self._hosts}",
            f"--local=/{DOMAIN}/",
            f"--local-ttl={ttl}",
        ]
        self._more: list[str] = []

    @property
    def server(self) -> tuple[str, int]:
        """What a source is given."""
        return HOST, self.port

    def start(self) -> None:
        """Start, and wait until it gives answers; fail when the process ends instead."""
        assert not self.running, f"the dnsmasq on port {self.port} runs already"
        self.process = subprocess.Popen(
            [program(BINARY, "dnsmasq-base"), *self._arguments, *self._more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers, f"the dnsmasq on port {self.port} answers")

    def _answers(self) -> bool:
        assert self.running, f"the dnsmasq on port {self.port} ended"
        return self._ask(f"nobody.{DOMAIN}.", "A") is not None

    def _ask(self, name: str, kind: str) -> dns.message.Message | None:
        """Ask it over UDP; ``None`` when there is no answer."""
        try:
            return dns.query.udp(
                dns.message.make_query(name, kind), HOST, _ASKED_SECONDS, self.port, ignore_unexpected=True
            )
        except (dns.exception.Timeout, OSError):
            return None

    def names(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Have these A and AAAA records and no others; return when they are answered with.

        It goes on running: it reads its hosts file anew.
        """
        # Aside, then moved: it never reads half of it.
        written = self._hosts.with_suffix(".new")
        written.write_text("".join(f"{ip} {name}\n" for name, ips in addresses.items() for ip in ips))
        written.replace(self._hosts)
        if self.running:
            self.send(signal.SIGHUP)
            until(lambda: self._tells(addresses), "its records are the new ones")

    def _tells(self, addresses: Mapping[str, Sequence[str]]) -> bool:
        # It knows the whole of a file or nothing of it; what is gone is for the caller to see.
        return all(self._known(name, ips) for name, ips in addresses.items())

    def _known(self, name: str, ips: Sequence[str]) -> bool:
        told = set()
        for kind in ("A", "AAAA"):
            answer = self._ask(f"{name}.", kind)
            if answer is None:
                return False
            if answer.flags & dns.flags.TC:
                return True
            told |= {record.to_text() for rrset in answer.answer for record in rrset}
        return told == set(ips)

    def services(
        self, records: Mapping[str, Sequence[str]], *, aliases: Mapping[str, str] | None = None
    ) -> None:
        """Have these SRV records (``priority weight port target``) and aliases, and no others.

        It reads them when it starts, so one that runs is stopped and started again.
        """
        self._more = [f"--cname={alias},{name}" for alias, name in (aliases or {}).items()]
        for name, data in records.items():
            for priority, weight, port, target in (each.split() for each in data):
                # Its order is another one than that of the record.
                self._more.append(f"--srv-host={name},{target.rstrip('.')},{port},{priority},{weight}")
        if self.running:
            self.stop()
            self.start()

    def close(self) -> None:
        """End it, and remove its folder."""
        super().close()
        self._folder.cleanup()


@contextmanager
def dns_server(ttl: int = 1) -> Iterator[DnsServer]:
    """Run a dnsmasq; without the program, skip the test and say why."""
    running = DnsServer(ttl)
    try:
        running.start()
        yield running
    finally:
        running.close()
