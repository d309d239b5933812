"""Settings: read once, all faults told at once, no secret told at all."""

import dataclasses
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from marshmallow import fields, validate

from chassis import settings as chassis_settings
from chassis.settings import ServiceSettings, SettingsError, describe, load, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServiceSettings):
    """A service's own, in every kind that services use."""

    SERVICE: ClassVar[str] = "test-service"
    UNAVAILABLE: ClassVar[tuple[str, ...]] = ("REDIS_URL", "GATEWAY_CONFIG")

    share: float = setting(fields.Float(validate=validate.Range(0, 1)), default=0.5, text="a share")
    brave: bool = setting(fields.Boolean(), default=False, text="whether to dare")
    names: tuple[str, ...] = setting(fields.String(), default=("a", "b"), text="names")
    most: int = setting(fields.Integer(validate=validate.Range(1, 99)), default=9, text="the most")
    least: int = setting(fields.Integer(validate=validate.Range(1, 99)), default=1, text="the least")
    key: str | None = setting(
        fields.String(validate=validate.Length(min=64)), default=None, text="a secret key", secret=True
    )

    def together(self) -> list[str]:
        return [f"LEAST: above MOST ({self.most})"] if self.least > self.most else []


WRONG = {
    "PORT": ["0", "65536", "http", "3000.5", "-1"],
    "SERVICE_VERSION": ["1 0", "v" * 65, "1.0\n1"],
    "APP_ENV": ["Production", "1st", "a" * 33],
    "LOG_LEVEL": ["INFO", "verbose"],
    "INTERNAL_TOKEN": ["too-short", "sixteen chars and spaces", "t" * 513, "\u00e4" * 20],
    "WEB_CONCURRENCY": ["0", "65", "many"],
    "GUNICORN_THREADS": ["0", "257"],
    "DRAIN_SECONDS": ["-1", "301", "25s"],
    "DRAIN_FILE": ["/" + "x" * 200],
    "SHARE": ["1.01", "-0.1", "nan", "inf", "half"],
    "BRAVE": ["perhaps", "2"],
}


def faults_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(Settings, environ)
    return caught.value.faults


def test_an_empty_environment_gives_the_defaults() -> None:
    loaded = load(Settings, {})

    assert loaded == Settings()
    assert (loaded.host, loaded.port, loaded.service_version) == ("0.0.0.0", 3000, "1.0.0")
    assert (loaded.app_env, loaded.log_level, loaded.internal_token) == ("production", "info", None)
    assert (loaded.web_concurrency, loaded.gunicorn_threads, loaded.drain_seconds) == (1, 16, 25)


@pytest.mark.parametrize("in_service", [1, 16, 256])
def test_beside_the_requests_in_service_there_are_threads_for_those_who_wait_and_for_the_rest(
    in_service: int,
) -> None:
    assert Settings(gunicorn_threads=in_service).server_threads == in_service + 64 + 2
    assert chassis_settings.WAITING_ROOM == 64


def test_values_are_read_by_upper_case_name_into_their_types() -> None:
    environ = {
        "PORT": "8080",
        "SHARE": "0.25",
        "BRAVE": "true",
        "KEY": "k" * 64,
        "port": "1",
        "HOME": "/root",
    }
    loaded = load(Settings, environ)

    assert (loaded.port, loaded.share, loaded.brave, loaded.key) == (8080, 0.25, True, "k" * 64)


@how(deadline=None)
@given(st.lists(st.sampled_from([field.name.upper() for field in dataclasses.fields(Settings)]), unique=True))
@pytest.mark.parametrize("empty", ["", " ", "\t \n"])
def test_an_empty_variable_counts_as_unset(empty: str, names: list[str]) -> None:
    assert load(Settings, dict.fromkeys([*names, "REDIS_URL"], empty)) == Settings()


def test_white_space_around_a_value_does_not_count() -> None:
    assert load(Settings, {"PORT": " 8080\n"}).port == 8080


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_a_fault_that_begins_with_its_name(name: str, value: str) -> None:
    [fault] = faults_of({name: value})

    assert fault.startswith(f"{name}: ")
    assert len(fault) > len(name) + 2
    secret = name == "INTERNAL_TOKEN"
    assert (f"(got {value!r})" in fault) is not secret


@how(deadline=None)
@given(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in WRONG.items()}),
    st.sets(st.sampled_from(Settings.UNAVAILABLE)),
)
def test_all_faults_are_told_at_once(wrong: dict[str, str], unavailable: set[str]) -> None:
    environ = {**wrong, **dict.fromkeys(unavailable, "anything")}
    if not environ:
        return
    faults = faults_of(environ)

    assert sorted(fault.partition(":")[0] for fault in faults) == sorted(environ)


@pytest.mark.parametrize("other", [{"PORT": "http"}, {"REDIS_URL": "redis://x"}, {"PORT": "0", "BRAVE": "2"}])
def test_what_is_wrong_only_together_is_told_beside_the_rest(other: dict[str, str]) -> None:
    faults = faults_of({"MOST": "3", "LEAST": "7", **other})

    assert sorted(fault.partition(":")[0] for fault in faults) == sorted(["LEAST", *other])
    assert "LEAST: above MOST (3)" in faults


@pytest.mark.parametrize("name", Settings.UNAVAILABLE)
def test_a_setting_of_a_later_version_stops_the_start(name: str) -> None:
    assert faults_of({name: "a value"}) == [f"{name}: not available in this version, unset it"]


def test_the_error_reads_as_a_list_of_its_faults() -> None:
    with pytest.raises(SettingsError) as caught:
        load(Settings, {"PORT": "http", "BRAVE": "perhaps"})

    assert str(caught.value).splitlines()[1:] == [f"  {fault}" for fault in caught.value.faults]


# Letters that stand in no sentence of ours.
unmistakable = st.text(
    st.sampled_from("\u00e4\u00f6\u00fc\u00df\u00e9\u00e8\u00ea\u0142"), min_size=3, max_size=40
)


@how(deadline=None)
@given(unmistakable, unmistakable, st.booleans())
def test_a_secret_is_never_told_in_a_fault(token: str, key: str, another: bool) -> None:
    environ = {"INTERNAL_TOKEN": token, "KEY": key} | ({"PORT": "http"} if another else {})
    with pytest.raises(SettingsError) as caught:
        load(Settings, environ)

    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.faults)
    assert "INTERNAL_TOKEN: " in told
    assert "KEY: " in told
    assert token not in told
    assert key not in told


def test_the_documentation_is_shown_names_defaults_and_sentences() -> None:
    shown = {described.name: described for described in describe(Settings)}

    assert list(shown) == [field.name.upper() for field in dataclasses.fields(Settings)]
    assert shown["PORT"].default == "3000"
    assert shown["SHARE"].default == "0.5"
    assert shown["BRAVE"].default == "false"
    assert shown["NAMES"].default == "a,b"
    assert shown["INTERNAL_TOKEN"].default == ""
    assert all(described.text for described in shown.values())


def test_every_default_that_is_shown_can_be_written_down() -> None:
    environ = {described.name: described.default for described in describe(ServiceSettings)}

    assert load(Settings, environ) == Settings()


def test_settings_are_not_changed_later() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_a_service_listens_on_its_port() -> None:
    assert load(Settings, {"PORT": "4000"}).ports == (4000,)


def test_drain_file_and_metrics_are_named_by_service_and_port() -> None:
    loaded = load(Settings, {"PORT": "8080"})

    assert loaded.drain_path == chassis_settings.RUNTIME_DIR / "test-service-8080.draining"
    assert loaded.metrics_path == chassis_settings.RUNTIME_DIR / "test-service-8080.metrics"
    assert load(Settings, {"DRAIN_FILE": "/tmp/my.drain"}).drain_path == Path("/tmp/my.drain")
