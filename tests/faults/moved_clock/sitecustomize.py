"""Lets Python sleep under libfaketime 0.9.10, which answers the absolute sleep of Python 3.11 and newer with
EINVAL as soon as it is told to leave the monotonic clock alone."""

import select
import time

time.sleep = lambda seconds: select.select((), (), (), seconds)  # type: ignore[assignment,misc]
