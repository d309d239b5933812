"""What tests with threads share."""

import select
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

# Where threads meet; elsewhere nothing is shared, or it is slow enough.
_WATCHED = (
    "/main_api/policies/",
    "/main_api/state/limits",
    "/main_api/state/memory.py",
    "/main_api/tally.py",
    "/main_api/telemetry.py",
)


@pytest.fixture
def switching() -> Iterator[None]:
    """Have threads take turns in the middle of any statement of a policy, or of what counts.

    The interpreter switches at calls and loops only, so that what is not locked would mostly work.
    """

    def trace(frame: FrameType, _: str, __: Any) -> Any:
        file = frame.f_code.co_filename
        if "/tests/" in file or not any(each in file for each in _WATCHED):
            return None
        frame.f_trace_opcodes = True
        # Any call that lets go of the interpreter would do.
        select.select((), (), (), 0)
        return trace

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threading.settrace(trace)
    yield
    threading.settrace(None)  # type: ignore[arg-type]  # as the library itself begins
    sys.setswitchinterval(before)
