"""Locks between processes; two descriptions of one file are as two processes to the kernel."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from auxiliary_service.registration.locks import FileLock

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auxiliary-service-3001.consul-leader"


def test_one_of_two_has_it(path: Path) -> None:
    one, other = FileLock(path), FileLock(path)
    assert one.take()
    assert not other.take()
    assert one.take()
    one.release()
    assert other.take()
    assert not one.take()


def test_nobody_else_may_use_the_file(path: Path) -> None:
    FileLock(path).take()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_who_waits_gets_it_when_the_other_lets_go(path: Path) -> None:
    one, other = FileLock(path), FileLock(path)
    one.take()
    got = threading.Event()
    waiting = threading.Thread(target=lambda: other.take(wait=True) and got.set(), daemon=True)
    waiting.start()
    assert not got.wait(0.05)
    one.release()
    assert got.wait(10)
    waiting.join(10)


def test_it_is_held_within_a_with_and_not_behind_it(path: Path) -> None:
    one, other = FileLock(path), FileLock(path)
    for _ in range(2):
        with one:
            assert not other.take()
        assert other.take()
        other.release()


def test_it_is_held_until_the_process_dies(path: Path) -> None:
    script = (
        "import pathlib, sys; from auxiliary_service.registration.locks import FileLock\n"
        "lock = FileLock(pathlib.Path(sys.argv[1])); print(lock.take(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        mine = FileLock(path)
        assert not mine.take()
        other.kill()
        other.wait()
        assert mine.take()


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        FileLock(path).take()
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_no_file_is_not_used(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a file of our own"):
        FileLock(path).take()


def test_somebody_elses_file_is_not_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(OSError, match="not a file of our own"):
        FileLock(path).take()


def test_it_can_be_had_once_the_reason_has_gone(path: Path) -> None:
    os.mkfifo(path)
    lock = FileLock(path)
    with pytest.raises(OSError, match="not a file"):
        lock.take()
    path.unlink()
    assert lock.take()
