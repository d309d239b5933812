"""What a cache of so many bytes really takes, after so many different keys.

    python -m tests.faults.million --bytes 67108864 --keys 1000000

Prints the growth of this process in bytes and its share of ``--bytes``. The answers differ in length from
nearly nothing to some kilobytes, so that what is freed does not just fit what comes.
"""

import argparse
import gc
import random
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from main_api.exchange import Call, Caller, Reply
from main_api.policies.cache import Cache, CacheSettings
from main_api.policies.coalescing import Flights
from main_api.policies.invalidation import Invalidation
from main_api.state.memory import MemoryStore

_PAGE = 4096
# Enough to have every module, arena and code path in place before the counting begins.
_WARM = 2_000


def resident() -> int:
    """Give the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def growth(size: int, keys: int) -> int:
    """Give the bytes by which this process has grown after ``keys`` answers in a cache of ``size``."""
    chance = random.Random(1)
    store = MemoryStore(size)
    flights, invalidation = Flights(), Invalidation()  # type: ignore[var-annotated]
    cache = Cache(CacheSettings(), "auxiliary-service", store, flights, invalidation)

    def answer(call: Call) -> Reply:
        body = b'{"success":true,"data":{"value":"%s"}}' % (b"x" * int(chance.expovariate(1 / 600)))
        tag = ("ETag", f'W/"{call.request_id}"')
        control = ("Cache-Control", "max-age=30, stale-if-error=300")
        return Reply(200, (("Content-Type", "application/json"), control, tag), body)

    def ask(number: int) -> None:
        call = Call(
            method="GET",
            path="/aws/parameters",
            query=(("name", f"/project/{number}"),),
            deadline=monotonic() + 10,
            caller=Caller("192.0.2.1"),
            request_id=f"{number:032x}",
        )
        cache(call, answer).close()

    for number in range(_WARM):
        ask(-number - 1)
    store.drop_all("")
    gc.collect()
    before = resident()
    most = before
    for number in range(keys):
        ask(number)
        if number % 10_000 == 0:
            most = max(most, resident())
    return max(most, resident()) - before


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.million", description=__doc__)
    parser.add_argument("--bytes", type=int, default=64 * 1024**2)
    parser.add_argument("--keys", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    grown = growth(options.bytes, options.keys)
    print(f"{grown} bytes, {grown / options.bytes:.2f} of {options.bytes}, after {options.keys} keys")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
