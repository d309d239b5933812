"""Addresses of registries: which are taken, as what, and that no fault repeats one."""

from dataclasses import dataclass

import pytest

from chassis.setting_fields import HttpAddress, HttpAddresses
from chassis.settings import ServiceSettings, SettingsError, load, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServiceSettings):
    one: str | None = setting(HttpAddress(), default=None, text="one address", secret=True)
    several: tuple[str, ...] = setting(HttpAddresses(), default=(), text="several", secret=True)


TAKEN = [
    ("http://consul:8500", "http://consul:8500"),
    ("https://consul.example", "https://consul.example"),
    ("http://consul:8500/", "http://consul:8500"),
    ("127.0.0.1:8500", "http://127.0.0.1:8500"),
    ("consul.example:8500", "http://consul.example:8500"),
    ("[::1]:8500", "http://[::1]:8500"),
    ("https://[fd00::1]:8501", "https://[fd00::1]:8501"),
]
REFUSED = [
    "unix:///run/consul.sock",
    "ftp://consul:8500",
    "http://",
    "://consul",
    "http://:8500",
    "http://consul:0",
    "http://consul:99999",
    "http://consul:canary",
    "http://consul:8500/canary",
    "http://consul:8500?canary=1",
    "http://consul:8500?",
    "http://consul:8500/#canary",
    "http://user:canary@consul:8500",
    "user:canary@consul:8500",
    "http://[canary]:8500",
    "http://con sul:8500",
    "http://[::1",
]


@pytest.mark.parametrize(("text", "url"), TAKEN)
def test_addresses_are_taken_as_the_registries_own_tools_take_them(text: str, url: str) -> None:
    assert load(Settings, {"ONE": text}).one == url


@pytest.mark.parametrize("text", REFUSED)
def test_others_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Settings, {"ONE": text, "SEVERAL": f"http://a:1, {text}"})
    one, several = caught.value.faults
    assert one.startswith("ONE: must be http://host:port")
    assert several.startswith("SEVERAL: number 2 must be http://host:port")
    assert "canary" not in one + several


def test_several_are_given_in_their_order() -> None:
    settings = load(Settings, {"SEVERAL": " http://a:1, b:2 ,,https://c "})
    assert settings.several == ("http://a:1", "http://b:2", "https://c")


def test_none_is_none() -> None:
    assert (load(Settings, {}).one, load(Settings, {"SEVERAL": ","}).several) == (None, ())
