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


def test_nothing_is_registered_by_default() -> None:
    settings = load(Settings, {})
    assert not settings.registers
    assert (settings.consul_http_addr, settings.consul_http_token, settings.etcd_endpoints) == (
        None,
        None,
        (),
    )
    assert (settings.etcd_prefix, settings.service_address) == ("services/auxiliary-service", None)
    assert settings.service_weight == 1


@pytest.mark.parametrize(
    ("name", "value"), [("CONSUL_HTTP_ADDR", "127.0.0.1:8500"), ("ETCD_ENDPOINTS", "http://a:2379,b:2379")]
)
def test_a_registry_is_registered_with(name: str, value: str) -> None:
    assert load(Settings, {name: value}).registers


def test_the_environment_of_a_registration_is_read() -> None:
    settings = load(
        Settings,
        {
            "CONSUL_HTTP_ADDR": "consul:8500",
            "CONSUL_HTTP_TOKEN": "b1gs33cr3t",
            "ETCD_ENDPOINTS": "http://a:2379, b:2379",
            "ETCD_PREFIX": "shop/services/aux",
            "SERVICE_ADDRESS": "fd00::1",
            "SERVICE_WEIGHT": "1000",
        },
    )
    assert (settings.consul_http_addr, settings.consul_http_token) == ("http://consul:8500", "b1gs33cr3t")
    assert settings.etcd_endpoints == ("http://a:2379", "http://b:2379")
    assert (settings.etcd_prefix, settings.service_address) == ("shop/services/aux", "fd00::1")
    assert settings.service_weight == 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONSUL_HTTP_ADDR", "http://user:canary@consul:8500"),
        ("CONSUL_HTTP_TOKEN", "canary canary"),
        ("CONSUL_HTTP_TOKEN", "canary\r\nX: y"),
        ("ETCD_ENDPOINTS", "http://user:canary@a:2379"),
    ],
)
def test_a_fault_repeats_nothing_that_may_be_a_secret(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Settings, {name: value})
    (fault,) = caught.value.faults
    assert fault.startswith(f"{name}: ")
    assert "canary" not in fault


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROJECT_NAME", "a/b"),
        ("ETCD_ENDPOINTS", ",".join(f"a{number}:1" for number in range(17))),
        ("ETCD_PREFIX", "/services"),
        ("ETCD_PREFIX", "services/"),
        ("ETCD_PREFIX", "a//b"),
        ("ETCD_PREFIX", "a b"),
        ("ETCD_PREFIX", "a" * 257),
        ("SERVICE_ADDRESS", "pod.example"),
        ("SERVICE_ADDRESS", "0.0.0.0"),
        ("SERVICE_ADDRESS", "::"),
        ("SERVICE_ADDRESS", "224.0.0.1"),
        ("SERVICE_ADDRESS", "fe80::1%eth0"),
        ("SERVICE_ADDRESS", "10.0.0.1:3001"),
        ("SERVICE_WEIGHT", "0"),
        ("SERVICE_WEIGHT", "1001"),
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
