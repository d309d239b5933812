"""``main-api accounts``: users and API keys, from a shell."""

import argparse
import sys
from collections.abc import Callable, Mapping
from time import time

from main_api.accounts.commands import Commands, Published, Refused, Show, Target, faulty
from main_api.accounts.faults import AccountsFault

_PRINTED = "-"
_HOW = """
The file is that of ACCOUNTS_FILE, or of --file PATH. It is replaced as a whole, comments included, and not at
all if it has faults or would have them. With --file - no file is touched: what to put into it is printed, and
ACCOUNTS_FILE, if it is set, is only read.
"""
_TOLD = """
With REDIS_URL, all gateways of the same APP_ENV that use this Redis know within a second; else they know once
they read the file, within 5 s.
"""
_ENDS = """
exit status: 0 when it is done; 1 when the file cannot be read or written, has faults, or has no such user or
key, and when the file is written and Redis is away; 2 for wrong arguments or settings
"""
_ACCOUNTS = f"Users and API keys: who may call the gateway.\n{_HOW}{_ENDS}"
_ADD = f"""\
Add a user, and print the id that was made. The password is asked for twice, or is the first line of standard
input with --password-stdin; it needs 12 characters, and its argon2id hash is stored. Where there is no file,
one is made, with the roles reader, operator and admin.
{_HOW}{_ENDS}"""
_LIST = f"""\
Print users and keys, tab-separated; times are UTC, - is for none:
user  ID  EMAIL  ROLE  active|disabled  time until which tokens are revoked
key   ID  OWNER  SCOPES  active|disabled|expired  PLAN  time of expiry
{_ENDS}"""
_DISABLE = f"""\
Shut out a user, by address or id, or a key, by id: neither logins nor tokens nor keys of theirs are taken.
--enable undoes it; the user logs in again. Of a key, gateways know once they read the file.
{_TOLD}{_HOW}{_ENDS}"""
_KEY = f"""\
Make an API key and print it, once: only its SHA-256 is stored. Nothing else goes to standard output, so that
the key can be piped to where it is kept; with --file -, what to put into the file goes there, and the key to
standard error. --scope is buckets:read, parameters:read, parameters:decrypt, gateway:operate, or
parameters:read:/database/** for the parameters below a path.
{_HOW}{_ENDS}"""
_REVOKE = f"""\
Take back all tokens that a user has been given until now; the next login gives a good one (disable is what
shuts a user out). A key is disabled, and with REDIS_URL for good: --enable does not undo that.
{_TOLD}{_HOW}{_ENDS}"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the parser of ``accounts`` its subcommands."""
    parser.description = _ACCOUNTS
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="subcommand", required=True)

    def command(name: str, line: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=line, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        made.add_argument("--file", metavar="PATH", help="the accounts file; - prints what to put into it")
        return made

    add = command("add", "add a user", _ADD)
    add.add_argument("email", metavar="EMAIL", help="such as ann@example.com")
    add.add_argument("--role", required=True, help="one of the roles in the file")
    add.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    command("list", "users and keys, tab-separated", _LIST)
    disable = command("disable", "shut out a user or a key, or let them in again", _DISABLE)
    disable.add_argument("name", metavar="EMAIL|ID", help="a user's address or id, or a key's id")
    disable.add_argument("--enable", action="store_true", help="let them in again")
    key = command("key", "make an API key, and print it", _KEY)
    key.add_argument("owner", metavar="OWNER", help="who it is for")
    key.add_argument("--scope", action="append", required=True, help="what it may; repeat it for more")
    key.add_argument("--plan", help="one of the plans in the file")
    key.add_argument("--expires", metavar="DATE", help="such as 2027-01-01: from 00:00 UTC on it is refused")
    revoke = command("revoke", "take back all tokens of a user, or a key", _REVOKE)
    revoke.add_argument("name", metavar="USER|KEY", help="a user's address or id, or a key's id")


def run(
    options: argparse.Namespace,
    environ: Mapping[str, str],
    show: Show,
    *,
    published: Published | None = None,
    clock: Callable[[], float] = time,
) -> int:
    """Run one subcommand; give the exit status: 0, 1 for what failed, 2 for arguments that are wrong.

    ``show`` prints lines. ``published`` is called for what was taken back, once the file is written: it tells
    all gateways at once, or gives False.
    """
    path = environ.get("ACCOUNTS_FILE", "").strip() or None
    printed = options.file == _PRINTED
    if options.file is not None and not printed:
        path = options.file
    if not path and not printed:
        return _complain("ACCOUNTS_FILE is not set; set it, or say --file PATH", 2)
    commands = Commands(Target(path, printed), show, published=published, clock=clock)
    try:
        getattr(commands, options.subcommand)(options)
    except Refused as error:
        return _complain(str(error), error.status)
    except AccountsFault as error:
        return _complain(faulty("nothing was changed", error.faults), 2)
    except OSError as error:
        hint = "check path and owner, or have printed by --file - what to put into the file"
        return _complain(f"not done: {path}: {error.strerror or type(error).__name__}; {hint}", 1)
    return 0


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"main-api: {text}\n")
    return status
