"""The auxiliary on the list of a Consul or an etcd: there soon, gone before it refuses, whatever fails."""

import base64
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from chassis.settings import RUNTIME_DIR
from tests.end_to_end.processes import HOST, Server, request, servers, until
from tests.faults.consul import Consul, consul
from tests.faults.etcd_server import EtcdServer, etcd_server
from tests.faults.support import say

# Promised, in seconds: on the list after the port is open, back on it after it was forgotten, what leaving
# adds to a stop; and what gunicorn itself takes until it has closed the port.
LISTED, BACK, LEAVING = 2.0, 10.0, 1.0
CLOSING = 0.5
TOKEN = "canary-3f9d2c61"


class Registry(Protocol):
    """A registry in a test's hands."""

    kind: str
    settings: dict[str, str]

    def shows(self, id_: str) -> Any:
        """Give what stands on the list under an id, and who put it there; nothing for nothing."""

    def forget(self) -> None:
        """Lose all memory."""

    def away(self) -> None:
        """Refuse connections."""

    def hang(self) -> None:
        """Take connections and do not answer."""

    def back(self) -> None:
        """Be well again."""


class ConsulRegistry:
    """The stand-in for an agent."""

    kind = "consul"

    def __init__(self, agent: Consul) -> None:
        self.agent = agent
        self.settings = {"CONSUL_HTTP_ADDR": f"{HOST}:{agent.port}", "CONSUL_HTTP_TOKEN": TOKEN}
        self.forget, self.away, self.hang, self.back = agent.forget_all, agent.refuse, agent.hang, agent.back

    def shows(self, id_: str) -> Any:
        return self.agent.service(id_) if self.agent.passing(id_) else None

    def asked(self, what: str) -> int:
        """Count the requests of a kind."""
        return sum(f"/v1/agent/service/{what}" in each.path for each in self.agent.requests)


class EtcdRegistry:
    """A real etcd."""

    kind = "etcd"

    def __init__(self, server: EtcdServer) -> None:
        self.server = server
        self.settings = {"ETCD_ENDPOINTS": server.url}
        self.away, self.hang = server.kill, server.pause

    def shows(self, id_: str) -> Any:
        key = base64.b64encode(f"services/auxiliary-service/{id_}".encode()).decode()
        [found] = self.server.ask("kv/range", key=key).get("kvs") or [None]
        return found and {**json.loads(base64.b64decode(found["value"])), "lease": found["lease"]}

    def forget(self) -> None:
        self.server.kill()
        self.server.wipe()
        self.server.start()

    def back(self) -> None:
        self.server.cont()
        if not self.server.running:
            self.server.start()


@pytest.fixture(params=["consul", "etcd"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    with ExitStack() as stack:
        if request.param == "consul":
            yield ConsulRegistry(stack.enter_context(consul(token=TOKEN)))
        else:
            yield EtcdRegistry(stack.enter_context(etcd_server()))


@contextmanager
def auxiliary(registry: Registry, **settings: str) -> Iterator[Server]:
    """Run an auxiliary that registers there."""
    every = {"DRAIN_SECONDS": "3", "LOG_LEVEL": "debug", **registry.settings, **settings}
    with servers("auxiliary", **every) as running:
        try:
            yield running["auxiliary"]
        except BaseException:
            say("\n    ".join(str(line) for line in told(running["auxiliary"])))
            raise
        finally:
            running["auxiliary"].stop()
            for each in RUNTIME_DIR.glob(f"auxiliary-service-{running['auxiliary'].port}.*"):
                each.unlink()  # locks and drain file outlive a stop
            assert TOKEN not in running["auxiliary"].log()


def id_of(server: Server) -> str:
    return f"auxiliary-service-{socket.gethostname()}-{server.port}"


def told(server: Server) -> list[str]:
    """Give what was logged of the registration."""
    return [line["message"] for line in server.lines() if "registration" in line["logger"]]


def listed(registry: Registry, server: Server, seconds: float = LISTED) -> Any:
    return until(lambda: registry.shows(id_of(server)), "it is listed", seconds)


def leader(registry: Registry, server: Server) -> int:
    """Find the worker that holds the lock."""
    lock = RUNTIME_DIR / f"auxiliary-service-{server.port}.{registry.kind}-leader"
    inode = lock.stat().st_ino
    held = re.findall(rf"FLOCK\s+ADVISORY\s+WRITE (\d+) \S+:{inode} ", Path("/proc/locks").read_text())
    [pid] = [int(each) for each in held if int(each) in server.workers()]
    return pid


class First:
    """Notes the first moment at which something is so, in a thread that looks all the time."""

    def __init__(self, condition: Callable[[], Any]) -> None:
        self.at: float | None = None
        self._condition = condition
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "First":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while self.at is None and not self._over.wait(0.003):
            if self._condition():
                self.at = time.monotonic()


def refusing(server: Server) -> Callable[[], bool]:
    """Give what tells whether a new connection is refused."""

    def refused() -> bool:
        with socket.socket() as client:
            client.settimeout(5)
            return client.connect_ex((HOST, server.port)) != 0

    return refused


def seconds_to_refusal(server: Server) -> float:
    """Stop it, and tell how long connections were still taken."""
    with First(refusing(server)) as refused:
        begun = time.monotonic()
        server.stop()
    assert refused.at is not None
    return refused.at - begun


def test_it_is_listed_soon_with_all_that_is_known_of_it(registry: Registry) -> None:
    with auxiliary(registry, SERVICE_VERSION="2.3.4", SERVICE_WEIGHT="7") as server:
        found = listed(registry, server)
        [line] = until(lambda: lines_of(server, "registered with"), "it says so")
        [first] = lines_of(server, "Listening at")
        say(f"{registry.kind}: listed {after(first, line):.2f} s after it listened")
        assert after(first, line) < LISTED
    if registry.kind == "consul":
        assert (found["Service"], found["Address"], found["Port"]) == ("auxiliary-service", HOST, server.port)
        assert found["Meta"] == {"version": "2.3.4", "weight": "7", "environment": "development"}
        assert found["Weights"]["Passing"] == 7
        assert found["Tags"] == ["development"]
    else:
        assert found.pop("lease")
        assert found == {
            "Op": 0,
            "Addr": f"{HOST}:{server.port}",
            "Metadata": {"version": "2.3.4", "weight": 7},
        }


def lines_of(server: Server, beginning: str) -> list[dict[str, Any]]:
    return [line for line in server.lines() if line["message"].startswith(beginning)]


def after(first: dict[str, Any], then: dict[str, Any]) -> float:
    """Give the seconds between two lines of the log."""
    read = datetime.fromisoformat
    return (read(then["timestamp"]) - read(first["timestamp"])).total_seconds()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_it_is_off_the_list_before_it_refuses(registry: Registry, number: signal.Signals) -> None:
    with auxiliary(registry, WEB_CONCURRENCY="2") as server:
        listed(registry, server)
        with First(lambda: not registry.shows(id_of(server))) as off, First(refusing(server)) as refused:
            begun = time.monotonic()
            server.stop(number)
        assert off.at is not None
        assert refused.at is not None
        say(
            f"{registry.kind}, {number.name}: off the list after {1000 * (off.at - begun):.0f} ms, "
            f"the first refusal after {1000 * (refused.at - begun):.0f} ms"
        )
        assert off.at < refused.at
        time.sleep(0.5)
        assert not registry.shows(id_of(server))


def test_the_drain_file_takes_it_off_and_its_end_puts_it_on_again(registry: Registry) -> None:
    with auxiliary(registry) as server:
        listed(registry, server)
        drain = RUNTIME_DIR / f"auxiliary-service-{server.port}.draining"
        drain.touch()
        begun = time.monotonic()
        until(lambda: not registry.shows(id_of(server)), "it is off the list", 1)
        say(f"{registry.kind}: off the list {time.monotonic() - begun:.2f} s after the drain file")
        assert request(server.port, "/health").status == 200
        drain.unlink()
        listed(registry, server)


def test_another_worker_takes_over_when_the_one_that_registers_dies(registry: Registry) -> None:
    with auxiliary(registry, WEB_CONCURRENCY="2") as server:
        until(lambda: len(server.workers()) == 2, "both workers run")
        before = listed(registry, server)
        first = leader(registry, server)
        with First(lambda: not registry.shows(id_of(server))) as off:
            os.kill(first, signal.SIGKILL)
            killed = time.monotonic()
            if isinstance(registry, ConsulRegistry):
                until(lambda: registry.asked("register") == 2, "another registers", 2)
            else:
                until(
                    lambda: registry.shows(id_of(server))["lease"] != before["lease"], "another registers", 2
                )
            say(f"{registry.kind}: another worker took over after {time.monotonic() - killed:.2f} s")
            assert leader(registry, server) != first
            time.sleep(0.5)
        assert off.at is None
        registry.forget()
        listed(registry, server, BACK)


def test_a_reload_does_not_take_it_off_the_list(registry: Registry) -> None:
    with auxiliary(registry, WEB_CONCURRENCY="2") as server:
        until(lambda: len(server.workers()) == 2, "both workers run")
        listed(registry, server)
        before = server.workers()
        with First(lambda: not registry.shows(id_of(server))) as off:
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            until(lambda: len(found := server.workers()) == 2 and not {*found} & {*before}, "new workers run")
            until(lambda: "registered with" in " ".join(told(server)[1:]), "one of them registers")
        assert off.at is None


def test_it_registers_once_however_many_workers_there_are() -> None:
    with (
        consul(token=TOKEN) as agent,
        auxiliary(registry := ConsulRegistry(agent), WEB_CONCURRENCY="3") as server,
    ):
        until(lambda: len(server.workers()) == 3, "all workers run")
        listed(registry, server)
        time.sleep(1)
        assert registry.asked("register") == 1


def test_it_is_back_when_the_registry_has_lost_its_memory(registry: Registry) -> None:
    with auxiliary(registry) as server:
        listed(registry, server)
        registry.forget()
        begun = time.monotonic()
        listed(registry, server, BACK)
        say(f"{registry.kind}: back {time.monotonic() - begun:.2f} s after it was forgotten")


def test_a_registry_that_comes_late_lists_it_at_once(registry: Registry) -> None:
    registry.away()
    with auxiliary(registry) as server:
        until(lambda: any("does not answer" in each for each in told(server)), "it has tried")
        assert request(server.port, "/health").status == 200
        time.sleep(2)
        registry.back()
        begun = time.monotonic()
        listed(registry, server)
        say(f"{registry.kind}: listed {time.monotonic() - begun:.2f} s after it came")


@pytest.mark.parametrize("fault", ["away", "hang"])
def test_a_registry_that_is_ill_delays_the_stop_by_a_second_at_most(registry: Registry, fault: str) -> None:
    with auxiliary(registry) as server:
        listed(registry, server)
        getattr(registry, fault)()
        took = seconds_to_refusal(server)
        say(f"{registry.kind}, {fault}: the first refusal {took:.2f} s after the signal")
        assert took < LEAVING + CLOSING
        assert any(each.startswith("not deregistered before stopping") for each in told(server))
        registry.back()


def test_without_a_registry_nothing_is_waited_for() -> None:
    with servers("auxiliary", DRAIN_SECONDS="3") as running:
        took = seconds_to_refusal(running["auxiliary"])
        say(f"no registry: the first refusal {took:.2f} s after the signal")
        assert took < CLOSING


def test_what_could_not_be_done_at_the_signal_is_done_while_requests_are_answered(registry: Registry) -> None:
    # An AWS that takes the connection and is silent holds a request for as long as it may take.
    with socket.create_server((HOST, 0)) as aws, ExitStack() as stack:
        url = f"http://{HOST}:{aws.getsockname()[1]}"
        server = stack.enter_context(
            auxiliary(registry, DRAIN_SECONDS="8", AWS_ENDPOINT_URL=url, AWS_ACCESS_KEY_ID="a")
        )
        listed(registry, server)
        asking = threading.Thread(target=ask_and_forget, args=(server.port,))
        asking.start()
        stack.enter_context(aws.accept()[0])
        registry.away()
        assert server.process is not None
        server.process.terminate()
        until(refusing(server), "it stops", LEAVING + CLOSING)
        assert asking.is_alive()
        registry.back()
        until(lambda: not registry.shows(id_of(server)), "it is off the list", 3)
        assert server.process.poll() is None
        asking.join()


def ask_and_forget(port: int) -> None:
    with suppress(OSError):
        request(port, "/aws/s3/buckets", X_Request_Timeout_Ms="6000")


def test_a_wrong_token_is_told_and_shown_to_nobody() -> None:
    with consul(token="another") as agent, auxiliary(ConsulRegistry(agent)) as server:
        until(lambda: any("answers with status 403; trying again" in each for each in told(server)), "told")
        assert agent.service(id_of(server)) is None
