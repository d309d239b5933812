"""Settings: defaults, ranges, and what only two of them make wrong."""

import pytest

from auxiliary_service.settings import Settings
from chassis.settings import SettingsError, describe, load


def test_the_defaults_are_the_contracts() -> None:
    settings = load(Settings, {})
    assert (settings.port, settings.aws_region, settings.project_name) == (3001, "us-west-2", "myproject")
    assert (settings.buckets_max_age, settings.parameters_max_age) == (0, 0)
    assert settings.allow_decryption is False
    assert settings.aws_endpoint_url is None
    assert "auxiliary-service-3001" in str(settings.drain_path)


def test_the_environment_is_read() -> None:
    settings = load(
        Settings,
        {
            "PORT": "4001",
            "AWS_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL": "http://localhost:4566",
            "PROJECT_NAME": "shop.v2",
            "BUCKETS_MAX_AGE": "5",
            "PARAMETERS_MAX_AGE": "6",
            "ALLOW_DECRYPTION": "1",
            "INTERNAL_TOKEN": "0123456789abcdef",
        },
    )
    assert (settings.port, settings.aws_region, settings.project_name) == (4001, "eu-central-1", "shop.v2")
    assert settings.aws_endpoint_url == "http://localhost:4566"
    assert (settings.buckets_max_age, settings.parameters_max_age) == (5, 6)
    assert settings.allow_decryption is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROJECT_NAME", "a/b"),
        ("PROJECT_NAME", ".."),
        ("PROJECT_NAME", "a b"),
        ("AWS_ENDPOINT_URL", "localhost:4566"),
        ("AWS_ENDPOINT_URL", "ftp://localhost"),
        ("AWS_REGION", "us west"),
        ("BUCKETS_MAX_AGE", "-1"),
        ("PARAMETERS_MAX_AGE", "soon"),
        ("ALLOW_DECRYPTION", "perhaps"),
        ("PORT", "0"),
    ],
)
def test_what_is_out_of_range_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Settings, {name: value})
    (fault,) = caught.value.faults
    assert fault.startswith(f"{name}: ")


def test_decryption_without_the_internal_token_does_not_start() -> None:
    with pytest.raises(SettingsError, match=r"ALLOW_DECRYPTION: .*INTERNAL_TOKEN"):
        load(Settings, {"ALLOW_DECRYPTION": "true"})


def test_every_setting_has_a_sentence() -> None:
    described = {each.name: each for each in describe(Settings)}
    assert {"AWS_REGION", "AWS_ENDPOINT_URL", "PROJECT_NAME", "ALLOW_DECRYPTION"} <= set(described)
    assert described["ALLOW_DECRYPTION"].default == "false"
    assert all(len(each.text) > 10 for each in described.values())
