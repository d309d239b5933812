"""How often a caller may ask: so many requests in a time, by route, or by the plan that the caller has."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from main_api.errors import QuotaExceeded, RateLimited
from main_api.exchange import Call, Caller, Headers, Plan, Proceed, Reply, Window
from main_api.state.limits import Limits, Taken

# What the limits are called in headers, and in the names of what is counted.
DEFAULT, BURST, RATE, QUOTA = "default", "burst", "rate", "quota"
_PREFIX_BITS = 64


@lru_cache(maxsize=4096)
def counted_as(address: str) -> str:
    """Give what requests of ``address`` count for: an IPv4 address, the /64 of an IPv6 one.

    A /64 is what one customer has at least (RFC 6177): by the single address, nobody could be limited.
    What is no address (a Unix socket) counts as it is.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        host_bits = 128 - _PREFIX_BITS
        return f"{IPv6Address(int(parsed) >> host_bits << host_bits)}/{_PREFIX_BITS}"
    return str(parsed)


class RateLimit:
    """Refuses what is over the caller's limits, and says on every answer what is left of them.

    A caller with a plan has what that says, over all routes together: first the burst, then the rate, then
    the quota, and what one refuses the next does not count. Everybody else has the ``default`` on each
    ``route``, by subject, else by address. Raises :class:`main_api.errors.RateLimited` or
    :class:`main_api.errors.QuotaExceeded`, whose ``retry_after`` is when none of the limits refuses any more.
    The headers are those of draft-ietf-httpapi-ratelimit-headers-11.
    """

    def __init__(self, limits: Limits, route: str, default: Window | None) -> None:
        self._limits = limits
        self._route = route
        self._default = default

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Count ``call``, and let it pass while there is room."""
        plan = call.caller.plan
        if plan is not None:
            self._judge(call, self._by_plan(_who(call.caller), plan))
        elif self._default is not None:
            taken = self._limits.take(self._default, self._route, _who(call.caller))
            self._judge(call, ((DEFAULT, taken),))
        return proceed(call)

    def _by_plan(self, who: str, plan: Plan) -> list[tuple[str, Taken]]:
        found: list[tuple[str, Taken]] = []
        open_so_far = True
        for name, window in ((BURST, plan.burst), (RATE, plan.rate)):
            if window is not None:
                # After a refusal they are looked at all the same: they too may say when to come back.
                ask = self._limits.take if open_so_far else self._limits.look
                found.append((name, ask(window, "plan", name, who)))
                open_so_far = open_so_far and found[-1][1].allowed
        if plan.quota is not None:
            use = self._limits.use_quota if open_so_far else self._limits.look_quota
            found.append((QUOTA, use(plan.quota, who)))
        return found

    @staticmethod
    def _judge(call: Call, found: Iterable[tuple[str, Taken]]) -> None:
        found = tuple(found)
        if not found:
            return
        call.trail.headers += _headers(found)
        refused = [each for each in found if not each[1].allowed]
        if refused:
            name, _ = max(refused, key=lambda each: each[1].retry_after)
            error = QuotaExceeded if name == QUOTA else RateLimited
            raise error(retry_after=max(taken.retry_after for _, taken in found))


class Counted:
    """Counts in one ``window``, under a ``name`` of its own, what is no request of a route: a login, say."""

    def __init__(self, limits: Limits, window: Window, name: str) -> None:
        self._limits = limits
        self._window = window
        self._name = name

    def take(self, identifier: str) -> Taken:
        """Count one for ``identifier``: an address by :func:`counted_as`, or what is no secret."""
        return self._limits.take(self._window, self._name, identifier)


def _who(caller: Caller) -> str:
    # An address cannot be another one's subject.
    return caller.subject if caller.subject is not None else f"address:{counted_as(caller.address)}"


def _headers(found: tuple[tuple[str, Taken], ...]) -> Headers:
    policies = ", ".join([f'"{name}";q={taken.limit};w={taken.window}' for name, taken in found])
    left = ", ".join([f'"{name}";r={taken.remaining};t={taken.reset}' for name, taken in found])
    return ("RateLimit-Policy", policies), ("RateLimit", left)
