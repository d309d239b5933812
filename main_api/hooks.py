"""What the gateway adds to the chassis' hooks: what it counts, and what is served on which port."""

from collections.abc import Callable, Collection
from functools import partial

from flask import Flask, g, request

from chassis.error_body import nowhere
from main_api.tally import Tally


def counting(tally: Tally) -> Callable[[str, int, float], None]:
    """Give what the chassis is to call with the rule, status and seconds of each request."""
    return partial(_count, tally)


def _count(tally: Tally, route: str, status: int, seconds: float) -> None:
    # Once, and not by name: each look through Flask's proxy costs more than the counting.
    left = vars(g)
    tally.request(route, status, left.get("error_code"), left.get("upstream_attempts", 0), seconds)


def keep_apart(app: Flask, port: int, reserved: Callable[[str], bool], probes: Collection[str]) -> None:
    """Serve the paths that are ``reserved`` on ``port`` alone, and there nothing else but the ``probes``.

    All else is 404 in every method, as if it did not exist: on the public port nobody learns of the
    operations endpoints, and their port is no way around the public one's credentials. Which port it is says
    the socket that took the connection, not a header. Install it behind the chassis, which has refused by
    then what is not written as it is meant.
    """
    here = str(port)

    def choose() -> None:
        path = request.path
        operations = request.environ.get("SERVER_PORT") == here
        if operations != reserved(path) and not (operations and path in probes):
            nowhere()

    app.before_request(choose)
