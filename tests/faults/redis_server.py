"""A real Redis in a test's hands: started, stopped, paused, continued, and never left behind."""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.end_to_end.processes import HOST, free_port, until
from tests.faults.child import Child, program

BINARY = "redis-server"


class RedisServer(Child):
    """One ``redis-server``: it keeps its port through any number of starts, and nothing on disk."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory()
        self._arguments = ["--port", str(self.port), "--bind", HOST, "--save", "", "--appendonly", "no"]
        self._socket = f"{self._folder.name}/redis.sock"
        self._arguments += ["--dir", self._folder.name, "--unixsocket", self._socket, *arguments]

    @property
    def url(self) -> str:
        """What a gateway is given."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """What a gateway on the same machine is given; nothing listens there while it is away."""
        return f"unix://{self._socket}?db=0"

    def begin(self) -> None:
        """Start and do not wait; for use within a load run, which must not be held up."""
        assert not self.running, f"the Redis on port {self.port} runs already"
        self.process = subprocess.Popen(
            [program(BINARY, "redis-server"), *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start, and wait until the port takes connections; fail when the process ends instead."""
        self.begin()
        until(self._open, f"the Redis on port {self.port} listens")

    def _open(self) -> bool:
        assert self.running, f"the Redis on port {self.port} ended"
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def close(self) -> None:
        """End it, and remove its folder."""
        super().close()
        self._folder.cleanup()


@contextmanager
def redis_server(*arguments: str) -> Iterator[RedisServer]:
    """Run a Redis with ``arguments`` added; without the program, skip the test and say why."""
    running = RedisServer(*arguments)
    try:
        running.start()
        yield running
    finally:
        running.close()


def certificates(folder: Path) -> None:
    """Write an authority, what it says of a server on 127.0.0.1 and of a client, and another authority."""
    # In .venv for moto, which imitates AWS; no other tests need it.
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    Issued = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]  # noqa: N806 - a type

    def make(name: str, by: Issued | None = None) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer = by[1] if by else key
        now = datetime.now(UTC)
        usage = x509.KeyUsage(True, False, False, False, False, not by, False, False, False)
        made = (
            x509.CertificateBuilder()
            .subject_name(named)
            .issuer_name(by[0].subject if by else named)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=not by, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
            .sign(signer, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made, key

    authority = make("ca")
    make("other")
    for name in ("server", "client"):
        make(name, authority)
