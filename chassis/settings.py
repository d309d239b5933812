"""Settings: one declaration each, read from the environment at start, every fault told at once.

A service declares a frozen dataclass whose fields are made by :func:`setting`; :func:`load` reads an
environment into it or raises :class:`SettingsError` with the whole list of faults. The README's
tables, ``.env.example`` and the manifests are held to :func:`describe` by a test.
"""

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from marshmallow import Schema, ValidationError, fields, validate

# Memory-backed, and the only place that a read-only root file system leaves writable. Names in it are
# checked to be ours before they are used (chassis/worker/configuration.py).
RUNTIME_DIR = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())  # noqa: S108 - see above

# Requests of a worker that may wait for a slot, and threads beyond them and the slots: for whoever comes
# then and is to be told that there is no room.
WAITING_ROOM = 64
_SPARE_THREADS = 2

T = TypeVar("T", bound="ServiceSettings")


class SettingsError(Exception):
    """The environment is unusable; ``faults`` has one sentence per fault, each begins with the name."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("settings are wrong:\n" + "\n".join(f"  {fault}" for fault in faults))


def setting(field: fields.Field[Any], *, default: Any, text: str, secret: bool = False) -> Any:
    """Declare a dataclass field that is read from the variable of its upper-cased name.

    ``field`` gives type and range, ``text`` is the sentence of the documentation; the value of a
    ``secret`` is never repeated in a fault.
    """
    return dataclasses.field(default=default, metadata={"field": field, "text": text, "secret": secret})


class Described(NamedTuple):
    """A setting as the documentation shows it."""

    name: str
    default: str
    text: str


def describe(settings: type) -> list[Described]:
    """List a settings class's variables in the order of their declaration."""
    return [
        Described(field.name.upper(), _shown(field.default), field.metadata["text"])
        for field in dataclasses.fields(settings)
    ]


def _shown(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def load(settings: type[T], environ: Mapping[str, str]) -> T:
    """Read ``environ`` into ``settings``.

    An empty variable counts as unset. Names that no setting has are not looked at, except those in
    the class's ``UNAVAILABLE``. Raises :class:`SettingsError`.
    """
    declared = {field.name.upper(): field for field in dataclasses.fields(settings)}
    schema = Schema.from_dict({name: field.metadata["field"] for name, field in declared.items()})()
    given = {name: value for name in declared if (value := environ.get(name, "").strip())}
    faults = [
        f"{name}: not available in this version, unset it"
        for name in getattr(settings, "UNAVAILABLE", ())
        if environ.get(name, "").strip()
    ]
    values: dict[str, Any] = {}
    try:
        values = schema.load(given)
    except ValidationError as error:
        values = error.valid_data  # type: ignore[assignment]  # a dict, for a single schema
        messages_by_name: dict[str, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]  # its gap
        for name, messages in messages_by_name.items():
            got = "" if declared[name].metadata["secret"] else f" (got {given[name]!r})"
            faults += [f"{name}: {message}{got}" for message in _flat(messages)]
    made = settings(**{name.lower(): value for name, value in values.items()})
    # Where a value is wrong, its default stands in, so that these are told in the same start.
    faults += made.together()
    if faults:
        raise SettingsError(faults)
    return made


def _flat(messages: Any) -> list[str]:
    if isinstance(messages, dict):
        return [text for inner in messages.values() for text in _flat(inner)]
    return [str(message) for message in messages]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """The settings that both services have."""

    SERVICE: ClassVar[str]
    UNAVAILABLE: ClassVar[tuple[str, ...]] = ()
    # Paths that a load balancer or Kubernetes asks; they wait for nobody, and get threads of their own.
    PROBES: ClassVar[tuple[str, ...]] = ()

    host: str = setting(
        fields.String(),
        default="0.0.0.0",  # noqa: S104 - a container is reached from outside; `make run` narrows it
        text="address to listen on (`make run` sets 127.0.0.1)",
    )
    port: int = setting(
        fields.Integer(validate=validate.Range(1, 65535)), default=3000, text="port to listen on"
    )
    service_version: str = setting(
        fields.String(
            validate=validate.Regexp(r"^[A-Za-z0-9._+-]{1,64}\Z", error="1 to 64 of A-Z a-z 0-9 . _ + -")
        ),
        default="1.0.0",
        text="version shown in `versions`, `X-Service-Version` and the logs",
    )
    app_env: str = setting(
        fields.String(validate=validate.Regexp(r"^[a-z][a-z0-9-]{0,31}\Z", error="a lower-case word")),
        default="production",
        text="name of the environment, in every log line as `environment`",
    )
    log_level: str = setting(
        fields.String(validate=validate.OneOf(("debug", "info", "warning", "error"))),
        default="info",
        text="lowest level that is logged: `debug`, `info`, `warning` or `error`; probes are `debug`",
    )
    internal_token: str | None = setting(
        fields.String(
            validate=validate.Regexp(r"^[!-~]{16,512}\Z", error="16 to 512 printable characters, no space")
        ),
        default=None,
        text="secret shared by the two services; set, the auxiliary answers `/aws/*` only to who shows it",
        secret=True,
    )
    web_concurrency: int = setting(
        fields.Integer(validate=validate.Range(1, 64)), default=1, text="worker processes"
    )
    gunicorn_threads: int = setting(
        fields.Integer(validate=validate.Range(1, 256)),
        default=16,
        text="requests in service per worker process",
    )
    drain_seconds: int = setting(
        fields.Integer(validate=validate.Range(0, 300)),
        default=25,
        text="seconds that `python -m chassis.drain` waits, and that a stopping worker gives its requests",
    )
    drain_file: str | None = setting(
        fields.String(validate=validate.Length(1, 200)),
        default=None,
        text="file whose presence means draining (default `<runtime directory>/<service>-<port>.draining`)",
    )

    def together(self) -> list[str]:
        """Name the faults that only several settings make together; a sentence each."""
        return []

    @property
    def server_threads(self) -> int:
        """Threads of a worker: those in service, those that wait for their turn, and some for the rest."""
        return self.gunicorn_threads + WAITING_ROOM + _SPARE_THREADS

    @property
    def ports(self) -> tuple[int, ...]:
        """All ports to listen on, ``port`` first."""
        return (self.port,)

    @property
    def drain_path(self) -> Path:
        """The drain file: shared by this pod's workers and its preStop hook, gone at the next start."""
        return Path(self.drain_file) if self.drain_file else self._runtime("draining")

    @property
    def metrics_path(self) -> Path:
        """The folder in which the workers of this port keep their metrics."""
        return self._runtime("metrics")

    def _runtime(self, kind: str) -> Path:
        return RUNTIME_DIR / f"{self.SERVICE}-{self.port}.{kind}"
