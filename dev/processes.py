"""Honcho's manager of processes, so that nothing of `make run` survives it.

Each command of the Procfile runs in a session of its own, so the terminal's Ctrl-C does not reach it;
an attendant (a process of honcho's) reads its output and reports its start and its end to the manager.
Honcho's own loop prints in a signal handler (which breaks off whatever print it interrupts), fails on
a signal that comes before all have started, and leaves the commands running when its terminal
disappears. Hence a loop of our own on honcho's parts.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from types import FrameType
from typing import Any, TextIO

from honcho.manager import KILL_WAIT, Manager
from honcho.printer import Message, Printer
from honcho.process import Process

# SIGHUP comes when the terminal is closed; the terminal sends it, and Ctrl-\, to the attendants too.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
SYSTEM = "system"


class Terminal(Printer):  # type: ignore[misc]  # honcho has no types
    """Honcho's printer; prints what has no name without a prefix, and notices when nobody reads any more."""

    def __init__(self, output: TextIO) -> None:
        super().__init__(output)
        self._gone = False
        self._poll = select.poll()
        self._poll.register(output.fileno(), 0)  # hang-up and error alone: they are always told

    def gone(self) -> bool:
        """Tell whether the terminal was closed, or the pipe that we print into."""
        return self._gone or bool(self._poll.poll(0))

    def write(self, message: Any) -> None:
        """Print a message; after the first failure nothing any more."""
        if self._gone:
            return
        try:
            if message.name is None:
                print(message.data, file=self.output, flush=True)
            else:
                super().write(message)
        except OSError:
            self._gone = True
            # What is still in the buffer would fail once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.output.fileno())


class Attended(Process):  # type: ignore[misc]  # honcho has no types
    """A command and, in the attendant, the promise that it does not outlive the manager."""

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        """Run the command to its end; called in the attendant."""
        for signum in ENDING:
            # A function rather than SIG_IGN, which the command would inherit.
            signal.signal(signum, _not_for_us)
        threading.Thread(target=self._end_with_manager, daemon=True).start()
        super().run(events, ignore_signals)

    def _end_with_manager(self) -> None:
        """Wait for the manager to die without having ended the command (SIGKILL), then do it."""
        manager = multiprocessing.parent_process()
        if manager is None:
            return
        manager.join()
        while self._child is None:
            time.sleep(0.01)
        signal_group(self._child.pid, signal.SIGTERM)
        time.sleep(KILL_WAIT)
        signal_group(self._child.pid, signal.SIGKILL)


class Processes(Manager):  # type: ignore[misc]  # honcho has no types
    """All processes, or none: when one ends, or a signal comes, all are ended.

    They get SIGTERM and, five seconds later, SIGKILL. ``failed`` then has the name of the process
    that ended by itself, and its exit code; it is None when a signal or the terminal asked for the end.
    """

    def __init__(self) -> None:
        self._terminal = Terminal(sys.stdout)
        super().__init__(self._terminal)
        self._process_ctor = Attended
        self._asked = False
        self.failed: tuple[str, int] | None = None

    def say(self, text: str, *, prefix: bool = True) -> None:
        """Print a line, or several, from any thread."""
        self.events.put(Message("line", text, datetime.now(), SYSTEM if prefix else None, None))  # noqa: DTZ005 - for people

    def loop(self, started: Callable[[], None] = lambda: None) -> None:
        """Start all, call ``started``, print what they say, and come back when all have ended."""
        for signum in ENDING:
            signal.signal(signum, self._ask)
        killing_at: float | None = None
        try:
            self._start()
            started()
            while not self._all_stopped():
                self._take()
                if killing_at is None and self._all_started() and self._to_be_ended():
                    killing_at = time.monotonic() + KILL_WAIT
                    self._system_print("ending all\n")
                    self.terminate()
                elif killing_at is not None and time.monotonic() > killing_at:
                    self.kill()
        finally:
            self.kill()

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        # Only this: a handler that prints breaks off the print that it interrupts.
        self._asked = True

    def _to_be_ended(self) -> bool:
        return self._asked or self._terminal.gone() or self._any_stopped()

    def _take(self) -> None:
        """Handle one message; without one, look for attendants that died before they could send it."""
        alive = {name: state["process"].is_alive() for name, state in self._processes.items()}
        try:
            message = self.events.get(timeout=0.1)
        except queue.Empty:
            for name in [name for name, lives in alive.items() if not lives]:
                signal_group(self._processes[name].setdefault("pid", 0), signal.SIGKILL)
                self._stopped(name, 1)
            return
        if message.type == "line":
            self._terminal.write(message)
        elif message.type == "start":
            self._processes[message.name]["pid"] = message.data["pid"]
        elif message.type == "stop":
            self._stopped(message.name, message.data["returncode"])

    def _stopped(self, name: str, returncode: int) -> None:
        state = self._processes[name]
        if "returncode" in state:
            return
        state["returncode"] = returncode
        if not (self._asked or self._terminal.gone() or self.failed):
            self.failed = (name, returncode)
        self._system_print(f"{name} has ended\n")

    def _killall(self, force: bool = False) -> None:
        for state in self._processes.values():
            if "returncode" not in state:
                signal_group(state.get("pid", 0), signal.SIGKILL if force else signal.SIGTERM)


def signal_group(group: int, signum: int) -> None:
    """Send a signal to a command and all that it started; to nobody when it has not started or is gone."""
    if not group:
        return
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        os.killpg(group, signum)


def _not_for_us(signum: int, frame: FrameType | None) -> None:
    """Leave the end to the manager: the attendant stays until its command has ended."""
