"""What is made of the settings: who keeps, who leaves, under which names; and what is not even imported."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from auxiliary_service import registration
from auxiliary_service.app import create_app
from auxiliary_service.aws.clients import Clients
from auxiliary_service.registration import keepers, leaving
from auxiliary_service.registration.consul import Consul
from auxiliary_service.registration.etcd import Etcd
from auxiliary_service.settings import Settings
from chassis.settings import load

ROOT = Path(__file__).parents[3]
BOTH = {"CONSUL_HTTP_ADDR": "127.0.0.1:8500", "ETCD_ENDPOINTS": "http://a:2379,http://b:2379"}


def registries(**environ: str) -> list[Any]:
    return [each._registry for each in keepers(load(Settings, environ))]


def test_who_names_no_registry_registers_nowhere() -> None:
    assert keepers(load(Settings, {})) == []
    assert leaving(load(Settings, {}))._departures == []


def test_each_registry_has_a_keeper_of_its_own() -> None:
    consul, etcd = registries(**BOTH)
    assert (type(consul), consul.name) == (Consul, "Consul at http://127.0.0.1:8500")
    assert (type(etcd), etcd.name) == (Etcd, "etcd at http://a:2379, http://b:2379")


def test_what_is_announced_is_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration.socket, "gethostname", lambda: "pod-7 of\n/them")
    [consul] = registries(
        CONSUL_HTTP_ADDR="consul:8500",
        HOST="10.0.0.9",
        PORT="4001",
        SERVICE_VERSION="2.0.1",
        SERVICE_WEIGHT="7",
        APP_ENV="staging",
    )
    told = consul._announced
    assert (told.service, told.id) == ("auxiliary-service", "auxiliary-service-pod-7-of--them-4001")
    assert (told.address(), told.port) == ("10.0.0.9", 4001)
    assert (told.version, told.weight, told.environment) == ("2.0.1", 7, "staging")


def test_the_address_that_is_set_goes_before_the_one_that_is_listened_on() -> None:
    [consul] = registries(CONSUL_HTTP_ADDR="consul:8500", HOST="127.0.0.1", SERVICE_ADDRESS="192.0.2.7")
    assert consul._announced.address() == "192.0.2.7"


def test_the_prefix_of_etcds_keys_is_in_the_settings() -> None:
    from base64 import b64decode

    [etcd] = registries(ETCD_ENDPOINTS="a:2379", ETCD_PREFIX="shop/aux")
    assert b64decode(etcd._key).decode() == f"shop/aux/{etcd._announced.id}"


def test_the_workers_of_one_port_agree_and_those_of_another_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("chassis.settings.RUNTIME_DIR", tmp_path)
    one, same = (keepers(load(Settings, BOTH)) for _ in range(2))
    [other, _] = keepers(load(Settings, {**BOTH, "PORT": "3002"}))
    assert [each._leads() for each in one] == [True, True]
    assert [each._leads() for each in same] == [False, False]
    assert other._leads()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "auxiliary-service-3001.consul-leader",
        "auxiliary-service-3001.etcd-leader",
        "auxiliary-service-3002.consul-leader",
    ]


def test_a_keeper_looks_for_the_drain_file(tmp_path: Path) -> None:
    [keeper] = keepers(load(Settings, {"CONSUL_HTTP_ADDR": "c:1", "DRAIN_FILE": str(tmp_path / "drain")}))
    assert not keeper._draining()
    (tmp_path / "drain").touch()
    assert keeper._draining()


def test_who_leaves_asks_every_endpoint_by_itself_behind_the_keepers_gates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("chassis.settings.RUNTIME_DIR", tmp_path)
    settings = load(Settings, BOTH)
    left = leaving(settings)
    consul, etcd = left._departures
    assert (len(consul._ways), len(etcd._ways)) == (1, 2)
    assert etcd.name == "etcd at http://a:2379 or etcd at http://b:2379"
    assert left._drain_path == settings.drain_path
    for keeper, departure in zip(keepers(settings), (consul, etcd), strict=True):
        with keeper._gate:
            assert not departure._gate.take()


def test_the_application_has_the_keepers_beside_its_requests() -> None:
    unused: Any = object()
    clients = Clients(s3=unused, ssm=unused)
    app = create_app(load(Settings, {"CONSUL_HTTP_ADDR": "consul:8500"}), clients)
    [keeper] = app.extensions["background"]
    assert keeper._registry.name == "Consul at http://consul:8500"
    assert create_app(load(Settings, {}), clients).extensions["background"] == []


def loaded(environ: dict[str, str]) -> str:
    """Tell what the arbiter has imported when it is ready; its own hook is left out, which needs a port."""
    script = """
import signal, sys, types
import auxiliary_service.gunicorn_conf as conf
conf.ready_as_all = lambda server: None
conf.when_ready(types.SimpleNamespace(pid=0, master_pid=0, reexec_pid=0))
print("requests" in sys.modules, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_arbiter_loads_requests_and_handles_signals_only_to_leave_a_registry() -> None:
    assert loaded({}) == "False True"
    assert loaded({"CONSUL_HTTP_ADDR": "127.0.0.1:8500"}) == "True False"


def test_the_worker_starts_what_runs_beside_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    from auxiliary_service.registration.keeper import Keeper

    wsgi = importlib.import_module("auxiliary_service.wsgi")
    started: list[Keeper] = []
    monkeypatch.setattr(Keeper, "start", lambda self: started.append(self))
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:8500")
    importlib.reload(wsgi)
    assert started == wsgi.app.extensions["background"]
    assert len(started) == 1
