"""The IP address under which others reach a server of this machine."""

import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from auxiliary_service.registration.registry import RegistryFailed

log = logging.getLogger(__name__)

# From a name or an address, a port and a family: the local address of the way there.
Reach = Callable[[str, int, int], str]


class LocalAddress:
    """Finds the address to announce for a server that listens on ``host``.

    That is ``host`` itself if it is a certain address; if it stands for all of the machine's, the one that
    the machine reaches the registry from, at the first of ``urls`` to which there is a way.
    """

    def __init__(self, host: str, urls: Iterable[str], reach: Reach | None = None) -> None:
        self._host = host
        self._urls = tuple(urls)
        self._reach = reach or local_end
        self._warned = False

    def __call__(self) -> str:
        """Give the address. Raises :class:`RegistryFailed` when there is no way to the registry."""
        try:
            return self._find()
        except (OSError, UnicodeError) as error:
            raise RegistryFailed(
                f"is not reached from any address of this machine ({type(error).__name__}); "
                "SERVICE_ADDRESS can name the one to announce"
            ) from None

    def _find(self) -> str:
        try:
            listening = ipaddress.ip_address(self._host)
        except ValueError:
            # A name; gunicorn binds it as IPv4.
            return str(socket.getaddrinfo(self._host, None, socket.AF_INET)[0][4][0])
        if not listening.is_unspecified:
            return str(listening)
        found = self._on_the_way(socket.AF_INET if listening.version == 4 else socket.AF_UNSPEC)
        if ipaddress.ip_address(found).is_loopback and not self._warned:
            self._warned = True
            log.warning("announcing %s, which only this machine reaches; set SERVICE_ADDRESS", found)
        return found

    def _on_the_way(self, family: int) -> str:
        fault: Exception = OSError("no address of a registry")
        for url in self._urls:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            try:
                return self._reach(str(parts.hostname), port, family).partition("%")[0]
            except (OSError, UnicodeError) as error:
                fault = error
        raise fault


def local_end(host: str, port: int, family: int) -> str:
    """Give the local address of the way to ``host``; nothing is sent. Raises :class:`OSError`."""
    kind, protocol, number, _, address = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)[0]
    with socket.socket(kind, protocol, number) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
