"""The gateway's settings: what is taken, what stops the start, and that all faults are told at once."""

import ipaddress

import pytest

from chassis.settings import SettingsError, load
from main_api.settings import Settings


def faults(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(Settings, environ)
    return caught.value.faults


def test_an_empty_environment_gives_the_defaults_of_the_contract() -> None:
    made = load(Settings, {})

    assert (made.port, made.host, made.service_version, made.app_env, made.log_level) == (
        3000,
        "0.0.0.0",
        "1.0.0",
        "production",
        "info",
    )
    assert made.auxiliary_service_url == ("http://localhost:3001",)
    assert (made.request_timeout, made.connect_timeout) == (10.0, 0.5)
    assert (made.pool_size, made.gunicorn_threads, made.web_concurrency) == (50, 16, 1)
    assert made.upstream_max_body == 16 * 1024 * 1024
    assert made.cors_origins == ("*",)
    assert made.trusted_proxies == ()
    assert made.authentication == "none"
    assert made.internal_token is None
    assert made.drain_seconds == 25


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://aux:3001", ("http://aux:3001",)),
        ("https://aux.example", ("https://aux.example",)),
        ("http://a:1/, http://b:2 ,,http://c:3", ("http://a:1", "http://b:2", "http://c:3")),
        ("http://[::1]:3001", ("http://[::1]:3001",)),
        ("http://10.0.0.1", ("http://10.0.0.1",)),
        ("http://my_service.ns.svc.cluster.local:80", ("http://my_service.ns.svc.cluster.local:80",)),
        ("http://fully.qualified.:80", ("http://fully.qualified.:80",)),
    ],
)
def test_addresses_are_read(text: str, urls: tuple[str, ...]) -> None:
    assert load(Settings, {"AUXILIARY_SERVICE_URL": text}).auxiliary_service_url == urls


@pytest.mark.parametrize(
    "url",
    [
        "aux:3001",
        "//aux:3001",
        "ftp://aux",
        "http://",
        "http://:3001",
        "http://aux:0",
        "http://aux:65536",
        "http://aux:port",
        "http://aux:3001/path",
        "http://aux?x=1",
        "http://aux#x",
        "http://user@aux",
        "http://user:password@aux",
        "http://a b",
        "http://aüx",
        "http://[::1",
        "http://[nonsense]:1",
        "http://*.example",
        "http://.example",
        "http://a..b",
        "http://..",
        "http://" + "a" * 64,
        "http://" + "a" * 254,
        ",",
    ],
)
def test_what_is_no_address_stops_the_start(url: str) -> None:
    [fault] = faults(AUXILIARY_SERVICE_URL=url)

    assert fault.startswith("AUXILIARY_SERVICE_URL: ")


def test_the_fault_names_the_address_among_several() -> None:
    [fault] = faults(AUXILIARY_SERVICE_URL="http://good:1,bad")

    assert "'bad'" in fault


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        ("10.0.0.1", ["10.0.0.1/32"]),
        (" fd00::/8 , 192.168.0.0/16 ", ["fd00::/8", "192.168.0.0/16"]),
    ],
)
def test_networks_are_read(text: str, networks: list[str]) -> None:
    assert load(Settings, {"TRUSTED_PROXIES": text}).trusted_proxies == tuple(
        map(ipaddress.ip_network, networks)
    )


@pytest.mark.parametrize(
    "network", ["10.0.0.1/8", "10.0.0.0/33", "10.0.0", "proxy.example", "*", "10.0.0.0/8;x"]
)
def test_what_is_no_network_stops_the_start(network: str) -> None:
    [fault] = faults(TRUSTED_PROXIES=network)

    assert fault.startswith("TRUSTED_PROXIES: ")


@pytest.mark.parametrize("origin", ["*", "https://app.example", "http://localhost:8080", "http://[::1]:8080"])
def test_origins_are_read(origin: str) -> None:
    assert load(Settings, {"CORS_ORIGINS": origin}).cors_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    ["app.example", "https://app.example/", "https://*", "null", "ftp://x", "https://a b", "**", ","],
)
def test_what_is_no_origin_stops_the_start(origin: str) -> None:
    [fault] = faults(CORS_ORIGINS=origin)

    assert fault.startswith("CORS_ORIGINS: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("REQUEST_TIMEOUT", "0"),
        ("REQUEST_TIMEOUT", "301"),
        ("REQUEST_TIMEOUT", "nan"),
        ("REQUEST_TIMEOUT", "inf"),
        ("CONNECT_TIMEOUT", "-1"),
        ("CONNECT_TIMEOUT", "61"),
        ("POOL_SIZE", "0"),
        ("POOL_SIZE", "1.5"),
        ("UPSTREAM_MAX_BODY", "1023"),
        ("UPSTREAM_MAX_BODY", "16MiB"),
        ("GUNICORN_THREADS", "0"),
        ("WEB_CONCURRENCY", "0"),
        ("LOG_LEVEL", "INFO"),
        ("LOG_LEVEL", "trace"),
        ("SERVICE_VERSION", "a b"),
        ("INTERNAL_TOKEN", "short"),
        ("AUTHENTICATION", "maybe"),
    ],
)
def test_a_value_out_of_range_stops_the_start_and_is_named(name: str, value: str) -> None:
    assert any(fault.startswith(f"{name}: ") for fault in faults(**{name: value}))


def test_a_pool_smaller_than_the_threads_stops_the_start() -> None:
    assert faults(POOL_SIZE="16", GUNICORN_THREADS="17") == [
        "POOL_SIZE: at least GUNICORN_THREADS (17) needed, got 16"
    ]
    assert load(Settings, {"POOL_SIZE": "17", "GUNICORN_THREADS": "17"}).pool_size == 17


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTHENTICATION", "required"),
        ("REDIS_URL", "redis://localhost"),
        ("GATEWAY_CONFIG", "/etc/gateway.yaml"),
        ("OPERATIONS_PORT", "9000"),
    ],
)
def test_what_this_version_does_not_have_stops_the_start(name: str, value: str) -> None:
    [fault] = faults(**{name: value})

    assert fault.startswith(f"{name}: ")
    assert "not available in this version" in fault


@pytest.mark.parametrize("name", ["AUTHENTICATION", "REDIS_URL", "GATEWAY_CONFIG", "OPERATIONS_PORT", "PORT"])
def test_an_empty_variable_is_unset(name: str) -> None:
    assert load(Settings, {name: "  "}) == load(Settings, {})


def test_all_faults_are_told_at_once() -> None:
    wrong = {
        "PORT": "x",
        "AUXILIARY_SERVICE_URL": "x",
        "CORS_ORIGINS": "x",
        "TRUSTED_PROXIES": "x",
        "AUTHENTICATION": "required",
        "REDIS_URL": "redis://x",
        "INTERNAL_TOKEN": "x",
    }

    assert {fault.partition(":")[0] for fault in faults(**wrong)} == set(wrong)


def test_faults_of_one_setting_and_of_two_together_are_told_at_once() -> None:
    told = {fault.partition(":")[0] for fault in faults(LOG_LEVEL="x", POOL_SIZE="1", GUNICORN_THREADS="2")}

    assert told == {"LOG_LEVEL", "POOL_SIZE"}


def test_a_secret_is_not_repeated_in_its_fault() -> None:
    [fault] = faults(INTERNAL_TOKEN="canary with space")

    assert "canary" not in fault
