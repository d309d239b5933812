"""The preStop hook: the file, the line, the wait, the exit status. No test waits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chassis.drain import drain, draining, main

ROOT = Path(__file__).parents[2]


class Clock:
    """Remembers how long it was asked to sleep, and whether the drain file was there by then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.slept: list[float] = []
        self.drained: list[bool] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.drained.append(draining(self.path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "draining"


@pytest.fixture
def clock(path: Path) -> Clock:
    return Clock(path)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setattr(os, "environ", {"DRAIN_FILE": str(path), "DRAIN_SECONDS": "7"})
    monkeypatch.setattr("logging.config.dictConfig", lambda configuration: None)
    return monkeypatch


def test_nothing_drains_without_the_file(path: Path) -> None:
    assert not draining(path)
    path.touch()
    assert draining(path)


def test_the_file_is_there_before_the_wait_begins(path: Path, clock: Clock) -> None:
    assert drain(path, 25, clock.sleep)
    assert (clock.slept, clock.drained) == ([25], [True])


def test_a_second_run_does_no_harm(path: Path, clock: Clock) -> None:
    assert drain(path, 25, clock.sleep)
    assert drain(path, 25, clock.sleep)
    assert clock.slept == [25, 25]
    assert draining(path)


def test_one_line_is_logged(path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        drain(path, 25, clock.sleep)
    assert [record.getMessage() for record in caplog.records] == ["draining for 25 seconds"]


def test_the_wait_takes_place_also_without_the_file(tmp_path: Path, clock: Clock) -> None:
    assert not drain(tmp_path / "missing" / "draining", 25, clock.sleep)
    assert clock.slept == [25]


@pytest.mark.parametrize("service", ["main-api", "auxiliary-service"])
def test_the_command_reads_the_services_environment(
    environment: pytest.MonkeyPatch, path: Path, clock: Clock, service: str
) -> None:
    assert main([service], clock.sleep) == 0
    assert (clock.slept, clock.drained) == ([7], [True])


@pytest.mark.parametrize(("service", "port"), [("main-api", 3000), ("auxiliary-service", 3001)])
def test_the_file_is_the_one_that_the_service_looks_for(
    environment: pytest.MonkeyPatch, tmp_path: Path, clock: Clock, service: str, port: int
) -> None:
    environment.setattr(os, "environ", {})
    environment.setattr("chassis.settings.RUNTIME_DIR", tmp_path)
    assert main([service], clock.sleep) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{service}-{port}.draining"]


def test_the_only_service_that_is_installed_needs_no_name(
    environment: pytest.MonkeyPatch, clock: Clock
) -> None:
    environment.setattr("importlib.util.find_spec", lambda name: "main" in name or None)
    assert main([], clock.sleep) == 0
    assert clock.slept == [7]


@pytest.mark.parametrize("installed", [True, None])
def test_of_several_services_or_none_one_must_be_named(
    environment: pytest.MonkeyPatch, clock: Clock, capsys: pytest.CaptureFixture[str], installed: bool | None
) -> None:
    environment.setattr("importlib.util.find_spec", lambda name: installed)
    with pytest.raises(SystemExit) as caught:
        main([], clock.sleep)
    assert caught.value.code == 2
    assert "main-api" in capsys.readouterr().err
    assert clock.slept == []


def test_wrong_settings_are_told(
    environment: pytest.MonkeyPatch, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setattr(os, "environ", {"DRAIN_SECONDS": "soon", "PORT": "0"})
    assert main(["main-api"], clock.sleep) == 1
    headline, *faults = capsys.readouterr().err.splitlines()
    assert headline == "main-api cannot drain:"
    assert sorted(fault.partition(":")[0] for fault in faults) == ["DRAIN_SECONDS", "PORT"]


def test_it_runs_as_a_command(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chassis.drain", "main-api"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DRAIN_FILE": str(path), "DRAIN_SECONDS": "0"},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    line = json.loads(done.stderr)
    assert (line["service"], line["message"]) == ("main-api", "draining for 0 seconds")
    assert draining(path)
