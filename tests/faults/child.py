"""A process in a test's hands: stopped, killed, paused, continued, and never left behind."""

import os
import shutil
import signal
import subprocess

import pytest


class Child:
    """What is done to a process that a test has started; signals go to this one alone.

    A class that begins it sets ``process``. After :meth:`stop` or :meth:`kill` it may begin again.
    """

    process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended; a paused one is running."""
        return self.process is not None and self.process.poll() is None

    def send(self, signum: int) -> None:
        """Send a signal and do not wait for what it does; for use within a load run."""
        assert self.process is not None
        self.process.send_signal(signum)

    def stop(self) -> None:
        """Send SIGTERM and wait for the end."""
        self.send(signal.SIGTERM)
        assert self.process is not None
        self.process.wait(10)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end; the kernel resets or closes its connections."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """Send SIGSTOP and wait until it has stopped; the kernel takes connections for it all the same."""
        self.send(signal.SIGSTOP)
        assert self.process is not None
        # WNOWAIT leaves an exit for Popen to find.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def cont(self) -> None:
        """Send SIGCONT: a paused process goes on with all that has come in meanwhile."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the process whatever state it is in, and wait for the end."""
        self.cont()
        self.kill()


def program(name: str, package: str) -> str:
    """Find a program; without it, skip the test, and say which of Debian's packages has it."""
    # Not all are on everybody's path.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        reason = f"there is no {name} (Debian and Ubuntu: apt install {package})"
        print(f"\n    skipped: {reason}", flush=True)
        pytest.skip(reason)
    return found
