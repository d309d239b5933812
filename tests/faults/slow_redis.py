"""A Redis that is slow or half there: a port of the loopback before a real one, which holds things up."""

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.end_to_end.processes import HOST
from tests.end_to_end.stand_in import Behaviour, stand_in

_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Slowness:
    """What becomes of each answer, those to the commands of connecting too.

    It comes ``delay`` seconds after the real one's. ``pieces``: in so many, each of them after the delay;
    ``half``: its first half, and then nothing.
    """

    delay: float = 0.0
    pieces: int = 1
    half: bool = False


@contextmanager
def slow_redis(port: int, redis: int, slowness: Slowness) -> Iterator[None]:
    """Stand on ``port`` before the Redis on the port ``redis``."""
    with stand_in(_behaviour(redis, slowness), port):
        yield


def _behaviour(redis: int, slowness: Slowness) -> Behaviour:
    def behave(client: socket.socket, over: threading.Event) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with socket.create_connection((HOST, redis)) as behind:
            # Nobody here sends a command before the last one was answered.
            while command := client.recv(_AT_ONCE):
                behind.sendall(command)
                answer = behind.recv(_AT_ONCE)
                if slowness.half:
                    over.wait(slowness.delay)
                    client.sendall(answer[: len(answer) // 2])
                    over.wait()
                size = -(-len(answer) // slowness.pieces)
                for at in range(0, len(answer), size):
                    over.wait(slowness.delay)
                    client.sendall(answer[at : at + size])

    return behave


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """Take ``port`` and let nobody connect to it: what is sent there gets no answer, not even a refusal."""
    waiting: list[socket.socket] = []
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        # Of those that nobody accepts, the kernel takes a few, and then throws away what asks for more.
        listener.listen(0)
        try:
            for _ in range(8):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                assert waiting[-1].connect_ex((HOST, port)) in (0, errno.EINPROGRESS)
            with socket.socket() as probe, suppress(TimeoutError):
                probe.settimeout(0.3)
                probe.connect((HOST, port))
                raise AssertionError(f"port {port} still takes connections")
            yield
        finally:
            for each in waiting:
                each.close()
