"""Wait until a port of this machine is open: ``python -m dev.after PORT``.

So `make run` is not ready before there is something to show.
"""

import socket
import sys
import time


def main(argv: list[str] | None = None) -> int:
    """Wait, for a minute at most; give the exit code: 0 once the port is open, else 1."""
    number = int((argv or sys.argv[1:])[0])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)) == 0:
                return 0
        time.sleep(0.05)
    return 1


if __name__ == "__main__":
    sys.exit(main())
