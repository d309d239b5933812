"""``main-api``: what an operator asks of the gateway from a shell."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from time import monotonic, sleep, time

from chassis.settings import SettingsError, load
from main_api import access_files, accounts_cli
from main_api.accounts.revocations import KEY, LIFETIME_MOST, Revocations
from main_api.app import create_app
from main_api.parts import redis_store, shared_revocations
from main_api.settings import Settings

# Seconds for each wait for Redis: nobody's request waits for this one, and it may be far away.
_PATIENCE = 5.0
# Seconds between two attempts to tell it what is revoked.
_AGAIN = 0.5
# What says where that is told.
_SHARED = ("REDIS_URL", "APP_ENV")
_PURGE = """\
Remove the answers that the gateways keep in the Redis of REDIS_URL, those of the same APP_ENV, and print
how many there were. With PREFIX, only of paths that begin with it, as the service sees them:
main-api cache purge /aws/parameters
A ? at its end means this path alone.

exit status: 0 when it is done; 1 when Redis was or went away or refused, and some may be left; 2 without
REDIS_URL, for then each worker keeps its answers itself, until it ends; 2 for wrong settings or arguments
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give the exit status: 0, 1 for what failed, or 2 for settings that are wrong."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "accounts":
            return _accounts(options)
        settings = load(Settings, os.environ)
        return _purge(settings, options.prefix) if options.command == "cache" else _routes(settings)
    except SettingsError as error:
        return _complain(str(error), 2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="main-api", description="The gateway's command line.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("routes", help="method, rule and links of every route, tab-separated")
    cache = commands.add_parser("cache", help="the answers that are kept").add_subparsers(
        dest="subcommand", required=True
    )
    purge = cache.add_parser(
        "purge",
        help="remove answers from Redis, and print how many there were",
        description=_PURGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    purge.add_argument("prefix", metavar="PREFIX", nargs="?", default="", type=_path, help="such as /aws/")
    accounts_cli.declare(commands.add_parser("accounts", help="users and API keys: who may call"))
    return parser


def _path(text: str) -> str:
    if text and not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with /")
    return text


def _accounts(options: argparse.Namespace) -> int:
    # Where accounts are made, the other settings of a gateway need not be.
    settings = load(Settings, {name: os.environ.get(name, "") for name in _SHARED})
    published = partial(_publish, settings) if settings.redis_url else None
    return accounts_cli.run(options, os.environ, _print, published=published)


def _publish(settings: Settings, kind: str, name: str) -> bool:
    """Tell all gateways that a key, or what a user was given until now, is taken back; whether they know."""
    revocations = Revocations(shared_revocations(settings, None))
    # In milliseconds, as a token says when it was issued.
    now = int(time() * 1000) / 1000
    end = monotonic() + _PATIENCE
    while not (
        revocations.revoke_key(name)
        if kind == KEY
        else revocations.revoke_user(name, now, now + LIFETIME_MOST)
    ):
        if monotonic() >= end:
            return False
        sleep(_AGAIN)
    return True


def _routes(settings: Settings) -> int:
    faults = access_files.faults(settings)
    if faults:
        raise SettingsError(faults)
    app = create_app(settings)
    _print(
        f"{','.join(route.methods)}\t{route.rule}\t{' > '.join(pipeline.links)}\n"
        for route, pipeline in app.extensions["routes"]
    )
    return 0


def _purge(settings: Settings, prefix: str) -> int:
    if settings.redis_url is None:
        return _complain("REDIS_URL is not set: each worker keeps its answers itself, until it ends", 2)
    store = redis_store(settings.redis_url, settings, timeout=_PATIENCE)
    removed = store.purge(prefix)
    if removed is None:
        return _complain(f"not done: Redis at {store.address} is away or refuses", 1)
    _print([f"{removed}\n"])
    return 0


def _print(lines: Iterable[str]) -> None:
    try:
        sys.stdout.writelines(lines)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads had enough (`| head`); what is still buffered would fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"main-api: {text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
