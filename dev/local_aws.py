"""The emulated AWS of `make run`: moto's S3 and SSM in one process, with the demonstration data.

The data is in before the port opens: whoever can connect sees all of it. Everything is kept in
memory and gone when the process ends. Any credentials are accepted.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import boto3
from moto import mock_aws
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from dev import demonstration_data


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then exit with 0 at once."""
    options = arguments(argv)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _end)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request helps nobody here
    forget_aws_configuration()
    if not options.empty:
        fill(options.region, options.project)
    application = DomainDispatcherApplication(create_backend_app)
    # moto locks its own books; without threads one kept connection would hold up all others.
    server = make_server(
        options.host, options.port, application, threaded=True, request_handler=MotoRequestHandler
    )
    held = "nothing yet" if options.empty else f"demonstration data below /{options.project}/"
    print(f"emulated AWS on http://{options.host}:{server.port} ({options.region}) holds {held}", flush=True)
    server.serve_forever()


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.local_aws",
        description="An emulated AWS (S3 and SSM) with demonstration data, in memory.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", default=4566, type=int, help="port to listen on")
    parser.add_argument("--region", default="us-west-2", help="region that the demonstration data is in")
    parser.add_argument("--project", default="myproject", help="the parameters are made below /<project>/")
    parser.add_argument("--empty", action="store_true", help="start without the demonstration data")
    return parser.parse_args(argv)


def forget_aws_configuration() -> None:
    """Drop the user's own AWS settings from this process.

    An unknown profile would stop boto3, an endpoint would send the data there instead of into moto.
    """
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull


def fill(region: str, project: str) -> None:
    """Load the demonstration data into this process's backends.

    moto's in-process mock writes into the same backends that its server reads, so no port is
    needed for it.
    """
    mock = mock_aws()
    mock.start()
    try:
        session = boto3.Session(region_name=region)
        demonstration_data.load(session.client("s3"), session.client("ssm"), project)
    finally:
        mock.stop(remove_data=False)


def _end(signum: int, frame: FrameType | None) -> None:
    # The threads that serve requests are daemons: nothing is waited for.
    sys.exit(0)


if __name__ == "__main__":
    main()
