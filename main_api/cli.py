"""``main-api``: what an operator asks of the gateway from a shell."""

import argparse
import os
import sys
from collections.abc import Sequence

from chassis.settings import SettingsError, load
from main_api.app import create_app
from main_api.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give the exit status: 0, or 2 for settings that are wrong."""
    parser = argparse.ArgumentParser(prog="main-api", description="The gateway's command line.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("routes", help="method, rule and links of every route, tab-separated")
    parser.parse_args(arguments)
    try:
        app = create_app(load(Settings, os.environ))
    except SettingsError as error:
        sys.stderr.write(f"main-api: {error}\n")
        return 2
    table = [
        f"{','.join(route.methods)}\t{route.rule}\t{' > '.join(pipeline.links)}\n"
        for route, pipeline in app.extensions["routes"]
    ]
    try:
        sys.stdout.writelines(table)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads had enough (`| head`); what is still buffered would fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
