"""`make run`: the emulated AWS, the auxiliary and the gateway, all on 127.0.0.1, from one terminal.

Three promises: a port in use is said before anything starts; the addresses are printed once requests
are answered; and whatever ends this process ends all of them.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from honcho import environ

from dev.processes import Processes

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
REGISTRIES = ("CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "ETCD_ENDPOINTS")
PATIENCE = 30.0  # seconds until we say that something is wrong; some six times what a start takes

Ports = Mapping[str, int]  # process of the Procfile -> its port


def main(argv: Sequence[str] | None = None) -> int:
    """Run until a signal comes or a process ends; give the exit code: 0 after a signal, else 1."""
    options = arguments(argv)
    ports = chosen_ports(options)
    if problem := ports_problem(ports, bind_error):
        return complain(problem)
    try:
        variables = environments(dotenv(ROOT / ".env"), os.environ, ports)
        commands = environ.parse_procfile(options.procfile.read_text(encoding="utf-8")).processes
    except (OSError, ValueError) as error:
        return complain(str(error))
    processes = Processes()
    if "aws" in ports:
        # Else the pair says that it is ready, and its first answers are that AWS is not there.
        commands["auxiliary"] = f"python -m dev.after {ports['aws']} && {commands['auxiliary']}"
    for name in ports:
        processes.add_process(name, commands[name], env=variables[name], cwd=str(ROOT))
    project = variables["gateway"]["PROJECT_NAME"]
    operations = variables["gateway"].get("OPERATIONS_PORT", ports["gateway"])
    watcher = threading.Thread(target=watch, args=(ports, project, operations, processes.say), daemon=True)
    processes.loop(started=watcher.start)
    if processes.failed is None:
        return 0
    name, returncode = processes.failed
    return complain(
        f"{name} ended by itself ({exit_text(returncode)}), so all were ended; its last lines above say why"
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.run",
        description="Start the emulated AWS, the auxiliary and the gateway on 127.0.0.1; Ctrl-C ends all.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--aws",
        choices=("local", "real"),
        default="local",
        help="the emulated AWS or the account you are signed in to",
    )
    parser.add_argument("--gateway-port", type=port, default=3000, help="port of the gateway")
    parser.add_argument("--auxiliary-port", type=port, default=3001, help="port of the auxiliary")
    parser.add_argument("--aws-port", type=port, default=4566, help="port of the emulated AWS")
    parser.add_argument("--procfile", type=Path, default=ROOT / "Procfile", help="the commands to start")
    return parser.parse_args(argv)


def port(text: str) -> int:
    """Read a port; argparse turns the error into a line that names the option."""
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is not within 1 to 65535")
    return number


def chosen_ports(options: argparse.Namespace) -> dict[str, int]:
    """Name the processes to start, in order, each with its port; the real AWS is none of them."""
    local = {"aws": options.aws_port} if options.aws == "local" else {}
    return {**local, "auxiliary": options.auxiliary_port, "gateway": options.gateway_port}


def ports_problem(ports: Ports, bind_error: Callable[[int], int]) -> str | None:
    """Say in one line why these ports cannot be had, or give None.

    ``bind_error`` gives the errno of binding a port, 0 when it can be bound.
    """
    if len(set(ports.values())) < len(ports):
        return "each process needs a port of its own: " + ", ".join(f"{name} {ports[name]}" for name in ports)
    errors = {name: error for name, number in ports.items() if (error := bind_error(number))}
    if not errors:
        return None
    held = " and ".join(
        f"port {ports[name]}, which {name} needs, {reason(error)}" for name, error in errors.items()
    )
    others = " ".join(f"{name.upper()}_PORT={another(ports[name])}" for name in errors)
    return f"{held}; end what holds it, or choose another: make run {others}"


def reason(error: int) -> str:
    """Write the errno of a bind as people say it."""
    return "is in use" if error == errno.EADDRINUSE else f"cannot be opened ({os.strerror(error).lower()})"


def another(number: int) -> int:
    """Suggest a port that looks like the wanted one."""
    return number + (100 if number + 100 <= 65535 else -100) if number >= 1024 else number + 8000


def bind_error(number: int) -> int:
    """Try to take a port as the servers will; give the errno, 0 when it can be had."""
    with socket.socket() as probe:
        # As the servers do: without it, a port counts as taken for a minute after its last connection.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, number))
            probe.listen(1)
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    return 0


def dotenv(path: Path) -> dict[str, str]:
    """Read the `.env` of the checkout; an absent one is empty."""
    if not path.exists():
        return {}
    try:
        values: dict[str, str] = environ.parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return values


def environments(
    dotenv: Mapping[str, str], shell: Mapping[str, str], ports: Ports
) -> dict[str, dict[str, str]]:
    """Give each process its environment: `.env`, over it the shell's, over both what `make run` decides.

    It decides the addresses, for a PORT or HOST that is meant for something else must not move the
    services, and, with the emulated AWS, everything that could send a request or a real credential
    anywhere else: of AWS's own variables only the region is kept, and no proxy is used. A registry is
    taken from `.env` alone.
    """
    common = {"APP_ENV": "development", "PROJECT_NAME": "myproject"}
    # In a shell they are for Consul's and etcd's own clients: no laptop joins a team's list by that.
    for given in (dotenv, {name: value for name, value in shell.items() if name not in REGISTRIES}):
        common |= {name: value for name, value in given.items() if value}  # as the settings: empty is unset
    if "aws" in ports:
        common = _emulated(common, ports["aws"])
    else:
        common.pop("AWS_ENDPOINT_URL", None)
    common |= {
        "HOST": HOST,
        "AUXILIARY_SERVICE_URL": f"http://{HOST}:{ports['auxiliary']}",
        # `python` in the Procfile is the one that runs us, whichever the shell would find.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), common.get("PATH", os.defpath))),
        "PYTHONUNBUFFERED": "1",
    }
    return {name: {**common, "PORT": str(number)} for name, number in ports.items()}


def _emulated(variables: Mapping[str, str], number: int) -> dict[str, str]:
    kept = {
        name: value
        for name, value in variables.items()
        if not name.startswith("AWS_") and not name.lower().endswith("_proxy")
    }
    return kept | {
        "AWS_REGION": variables.get("AWS_REGION") or "us-west-2",
        "AWS_ENDPOINT_URL": f"http://{HOST}:{number}",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "demonstration",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def watch(ports: Ports, project: str, operations: int | str, say: Callable[..., None]) -> None:
    """Print the banner when the services are ready; until then, once, that it takes too long."""
    complain_at = time.monotonic() + PATIENCE
    warned = False
    while (obstacle := not_ready(ports)) is not None:
        if not warned and time.monotonic() > complain_at:
            warned = True
            say(f"not ready after {PATIENCE:.0f} s: {obstacle}; look for its lines above (Ctrl-C ends all)")
        time.sleep(0.1)
    say(banner(ports, project, operations), prefix=False)


def not_ready(ports: Ports) -> str | None:
    """Say what is still missing, or give None: the data is in AWS, and the gateway reaches the auxiliary."""
    name = "aws"
    try:
        if name in ports:
            socket.create_connection((HOST, ports[name]), timeout=2).close()
        name = "gateway"
        connection = http.client.HTTPConnection(HOST, ports[name], timeout=2)
        try:
            connection.request("GET", "/api/health/ready")
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return f"{name} does not answer on port {ports[name]} ({error})"
    return (
        None
        if status == 200
        else f"gateway answers {status} to /api/health/ready: most likely it is the auxiliary"
    )


def banner(ports: Ports, project: str, operations: int | str) -> str:
    """Write the addresses and three lines to try; ``operations`` is the port of the operations endpoints."""
    gateway, beside = f"http://{HOST}:{ports['gateway']}", f"http://{HOST}:{operations}"
    local = "aws" in ports
    aws = (
        f"http://{HOST}:{ports['aws']} (emulated, in memory)"
        if local
        else "the account of your credential chain"
    )
    third = "?name=database/host" if local else "/list?limit=10"
    return f"""
  ready

    page           {gateway}/
    documentation  {gateway}/docs
    gateway        {gateway}
    operations     {beside} /health /services /circuit-breakers /routes /gateway/stats /metrics
    auxiliary      http://{HOST}:{ports["auxiliary"]}
    AWS            {aws}, parameters below /{project}/

  Try

    curl {gateway}/api/s3/buckets
    curl {gateway}/api/parameters/list
    curl '{gateway}/api/parameters{third}'

  Ctrl-C ends everything.
"""


def exit_text(returncode: int) -> str:
    """Write an exit code as people read it."""
    return f"exit code {returncode}" if returncode >= 0 else f"killed by {signal.Signals(-returncode).name}"


def complain(text: str) -> int:
    """Say on standard error, in one line, why this ends; give the exit code."""
    print(f"make run: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
