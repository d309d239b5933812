"""The gateway's settings: what is taken, what stops the start, and that all faults are told at once."""

import ipaddress

import pytest

from chassis.settings import SettingsError, load
from chassis.worker import gunicorn_settings
from main_api.setting_fields import Registered
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
    assert (made.cache_bytes, made.redis_url) == (64 * 1024 * 1024, None)
    assert made.drain_seconds == 25


def test_an_empty_environment_gives_the_defaults_of_the_policies() -> None:
    made = load(Settings, {})

    assert (made.attempt_timeout, made.bulkhead) == (3.0, None)
    assert (made.retry_attempts, made.retry_backoff, made.retry_backoff_max) == (3, 0.025, 0.25)
    assert (made.retry_tokens, made.retry_tokens_per_success) == (50.0, 0.1)
    assert (made.balance, made.balance_hash_by) == ("round_robin", "path")
    assert (made.breaker_failure_rate, made.breaker_minimum_calls, made.breaker_window) == (0.5, 20, 10.0)
    assert (made.breaker_failures_in_a_row, made.breaker_half_open_calls) == (5, 3)
    assert (made.breaker_open_seconds, made.breaker_open_seconds_max) == (5.0, 60.0)
    assert made.breaker_healthy_seconds == 60.0
    assert (made.health_check_path, made.health_check_interval) == ("/health", 5.0)
    assert made.health_check_timeout == 1.0
    assert (made.health_check_unhealthy_after, made.health_check_healthy_after) == (3, 2)


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
        ("http://a:1;weight=1", ("http://a:1;weight=1",)),
        ("http://a:1/;weight=1000", ("http://a:1;weight=1000",)),
        (
            "https://a;weight=20, http://b:2 ,http://[::1]:3;weight=999",
            ("https://a;weight=20", "http://b:2", "http://[::1]:3;weight=999"),
        ),
    ],
)
def test_addresses_are_read(text: str, urls: tuple[str, ...]) -> None:
    assert load(Settings, {"AUXILIARY_SERVICE_URL": text}).auxiliary_service_url == urls


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("dns://auxiliary.ns.svc.cluster.local:3001", ("dns", "auxiliary.ns.svc.cluster.local", 3001, {})),
        ("srv://_http._tcp.auxiliary.ns.svc", ("srv", "_http._tcp.auxiliary.ns.svc", None, {})),
        ("srv://auxiliary.service.consul.", ("srv", "auxiliary.service.consul.", None, {})),
        ("consul://auxiliary-service", ("consul", "auxiliary-service", None, {})),
        (
            " consul://Aux_1?dc=eu-1&tag=v2&ns=a ",
            ("consul", "Aux_1", None, {"dc": "eu-1", "tag": "v2", "ns": "a"}),
        ),
        ("etcd://services/auxiliary", ("etcd", "services/auxiliary", None, {})),
        ("etcd:///services/auxiliary/", ("etcd", "/services/auxiliary", None, {})),
    ],
)
def test_a_registry_is_read(text: str, facts: tuple[str, str, int | None, dict[str, str]]) -> None:
    found = load(Settings, {"AUXILIARY_SERVICE_URL": text}).auxiliary_service_url

    assert isinstance(found, Registered)
    assert (found.kind, found.name, found.port, dict(found.options)) == facts
    assert found.text == str(found) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "dns://auxiliary",
        "dns://auxiliary:0",
        "dns://auxiliary:65536",
        "dns://:3001",
        "dns://[::1]:3001",
        "dns://auxiliary:3001/",
        "dns://auxiliary:3001?x=1",
        "dns://user@auxiliary:3001",
        "dns://auxiliary:3001,dns://other:3001",
        "dns://auxiliary:3001,http://other:3001",
        "srv://",
        "srv://name:80",
        "srv://a b",
        "srv://name/path",
        "consul://",
        "consul://a/b",
        "consul://a:8500",
        "consul://a?datacenter=b",
        "consul://a?dc=",
        "consul://a?dc=b%26token=c",
        "consul://a#b",
        "consul://../kv",
        "consul://..",
        "consul://a?dc=b&dc=c",
        "etcd://",
        "etcd:///",
        "etcd://a b",
        "etcd://ä",
        "DNS://a:1",
        "zookeeper://a",
    ],
)
def test_what_is_no_registry_stops_the_start(text: str) -> None:
    [fault] = faults(AUXILIARY_SERVICE_URL=text)

    assert fault.startswith("AUXILIARY_SERVICE_URL: ")


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("10.0.0.2", (("10.0.0.2", 53),)),
        ("127.0.0.1:8600, ::1 ,[::1]:54", (("127.0.0.1", 8600), ("::1", 53), ("::1", 54))),
    ],
)
def test_dns_servers_are_read(text: str, servers: tuple[tuple[str, int], ...]) -> None:
    assert load(Settings, {"DNS_SERVERS": text}).dns_servers == servers


@pytest.mark.parametrize(
    "text", ["dns.example", "10.0.0.2:0", "10.0.0.2:x", "10.0.0.2/a", "a@10.0.0.2", "[::1"]
)
def test_what_is_no_dns_server_stops_the_start(text: str) -> None:
    [fault] = faults(DNS_SERVERS=text)

    assert fault.startswith("DNS_SERVERS: ")


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
        "bad;weight=2",
        ";weight=2",
        "http://aux:3001;",
        "http://aux:3001;weight",
        "http://aux:3001;weight=",
        "http://aux:3001;weight=0",
        "http://aux:3001;weight=01",
        "http://aux:3001;weight=1001",
        "http://aux:3001;weight=10000",
        "http://aux:3001;weight=-1",
        "http://aux:3001;weight=1.5",
        "http://aux:3001;weight=٣",
        "http://aux:3001;weight=2 x",
        "http://aux:3001;weight=2;weight=3",
        "http://aux:3001; weight=2",
        "http://aux:3001;Weight=2",
        "http://aux:3001;2",
        "http://aux:3001;zone=a",
        "http://aux:3001/path;weight=2",
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
    "url",
    [
        "redis://cache",
        "redis://cache:6379/",
        "redis://cache:6379/3",
        "redis://:p%40ss@cache/0",
        "redis://user:word@[::1]:6379?db=2",
        "rediss://user:word@cache.example:6380/0?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
        "unix:///run/redis.sock",
        "unix://user:word@/run/redis.sock?db=1",
    ],
)
def test_addresses_of_redis_are_taken_as_they_are_and_can_be_used(url: str) -> None:
    from main_api.state.redis_connections import connect

    assert load(Settings, {"REDIS_URL": url}).redis_url == url
    assert connect(url, 1).connection_pool.make_connection()


@pytest.mark.parametrize(
    "url",
    [
        "canary",
        "canary:6379",
        "http://canary",
        "redis:canary",
        "redis://",
        "redis://:canary@",
        "redis://canary:0",
        "redis://canary:65536",
        "redis://canary:port",
        "redis://u:canary#1@host",
        "redis://u:canary/1@host",
        "redis://u:can[ary@host",
        "redis://host/canary",
        "redis://host/1/canary",
        "redis://host/1#canary",
        "redis://host canary",
        "redis://canary_*",
        "redis://host?db=canary",
        "redis://host?db=-1",
        "redis://host?db=1&db=2",
        "redis://host?db",
        "redis://host?canary=1",
        "redis://host?password=canary",
        "redis://host?socket_timeout=10",
        "redis://host?max_connections=1",
        "redis://host?retry_on_timeout=yes",
        "redis://host?ssl_cert_reqs=none",
        "unix://",
        "unix:///",
        "unix://canary",
        "unix:///run/redis.sock?timeout=1",
    ],
)
def test_what_is_no_address_of_redis_stops_the_start_and_is_not_repeated(url: str) -> None:
    [fault] = faults(REDIS_URL=url)

    assert fault.startswith("REDIS_URL: ")
    assert "canary" not in fault
    assert "not available" not in fault


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
        ("ATTEMPT_TIMEOUT", "0"),
        ("ATTEMPT_TIMEOUT", "301"),
        ("ATTEMPT_TIMEOUT", "nan"),
        ("BULKHEAD", "0"),
        ("BULKHEAD", "257"),
        ("RETRY_ATTEMPTS", "0"),
        ("RETRY_ATTEMPTS", "6"),
        ("RETRY_BACKOFF", "-0.1"),
        ("RETRY_BACKOFF", "11"),
        ("RETRY_BACKOFF_MAX", "61"),
        ("RETRY_TOKENS", "0.9"),
        ("RETRY_TOKENS", "100001"),
        ("RETRY_TOKENS_PER_SUCCESS", "-0.1"),
        ("RETRY_TOKENS_PER_SUCCESS", "1.1"),
        ("BALANCE", "roundrobin"),
        ("BALANCE", "ROUND_ROBIN"),
        ("BALANCE_HASH_BY", "query"),
        ("BALANCE_HASH_BY", "header:"),
        ("BALANCE_HASH_BY", "header:a b"),
        ("BALANCE_HASH_BY", "header:X-A\nX-B"),
        ("BREAKER_FAILURE_RATE", "0"),
        ("BREAKER_FAILURE_RATE", "1.1"),
        ("BREAKER_MINIMUM_CALLS", "0"),
        ("BREAKER_WINDOW", "0.9"),
        ("BREAKER_FAILURES_IN_A_ROW", "0"),
        ("BREAKER_OPEN_SECONDS", "0"),
        ("BREAKER_OPEN_SECONDS_MAX", "3601"),
        ("BREAKER_HALF_OPEN_CALLS", "0"),
        ("BREAKER_HEALTHY_SECONDS", "0.9"),
        ("HEALTH_CHECK_PATH", "health"),
        ("HEALTH_CHECK_PATH", "/a b"),
        ("HEALTH_CHECK_PATH", "/" + "a" * 201),
        ("HEALTH_CHECK_INTERVAL", "-1"),
        ("HEALTH_CHECK_INTERVAL", "3601"),
        ("HEALTH_CHECK_TIMEOUT", "0"),
        ("HEALTH_CHECK_UNHEALTHY_AFTER", "0"),
        ("HEALTH_CHECK_HEALTHY_AFTER", "101"),
        ("OPERATIONS_PORT", "0"),
        ("OPERATIONS_PORT", "65536"),
        ("OPERATIONS_PORT", "9000,9001"),
    ],
)
def test_a_value_out_of_range_stops_the_start_and_is_named(name: str, value: str) -> None:
    assert any(fault.startswith(f"{name}: ") for fault in faults(**{name: value}))


def test_a_pool_smaller_than_the_threads_stops_the_start() -> None:
    assert faults(POOL_SIZE="16", GUNICORN_THREADS="17") == [
        "POOL_SIZE: at least GUNICORN_THREADS (17) needed, got 16"
    ]
    assert load(Settings, {"POOL_SIZE": "17", "GUNICORN_THREADS": "17"}).pool_size == 17


PAIRS = [
    ("POOL_SIZE", "GUNICORN_THREADS", "16", "17"),
    ("RETRY_BACKOFF_MAX", "RETRY_BACKOFF", "0.1", "0.2"),
    ("RETRY_BACKOFF_MAX", "RETRY_BACKOFF", "0.25", "0.3"),
    ("BREAKER_OPEN_SECONDS_MAX", "BREAKER_OPEN_SECONDS", "4.5", "5"),
    ("BREAKER_OPEN_SECONDS_MAX", "BREAKER_OPEN_SECONDS", "60", "61"),
]


@pytest.mark.parametrize(("larger", "smaller", "least", "most"), PAIRS)
def test_a_pair_that_contradicts_itself_stops_the_start_and_both_are_named(
    larger: str, smaller: str, least: str, most: str
) -> None:
    assert faults(**{larger: least, smaller: most}) == [
        f"{larger}: at least {smaller} ({most}) needed, got {least}"
    ]
    equal = load(Settings, {larger: most, smaller: most})
    assert getattr(equal, larger.lower()) == getattr(equal, smaller.lower()) == float(most)


def test_one_of_a_pair_is_held_to_the_others_default() -> None:
    assert faults(RETRY_BACKOFF="0.5") == ["RETRY_BACKOFF_MAX: at least RETRY_BACKOFF (0.5) needed, got 0.25"]
    assert faults(BREAKER_OPEN_SECONDS="90") == [
        "BREAKER_OPEN_SECONDS_MAX: at least BREAKER_OPEN_SECONDS (90) needed, got 60"
    ]


def test_a_success_may_return_as_much_as_the_bucket_holds() -> None:
    made = load(Settings, {"RETRY_TOKENS": "1", "RETRY_TOKENS_PER_SUCCESS": "1"})

    assert (made.retry_tokens, made.retry_tokens_per_success) == (1.0, 1.0)


def test_all_pairs_are_told_at_once() -> None:
    told = faults(POOL_SIZE="1", RETRY_BACKOFF="1", BREAKER_OPEN_SECONDS="100")

    assert [fault.partition(":")[0] for fault in told] == [
        "POOL_SIZE",
        "RETRY_BACKOFF_MAX",
        "BREAKER_OPEN_SECONDS_MAX",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BALANCE", "consistent_hash"),
        ("BALANCE_HASH_BY", "caller"),
        ("BALANCE_HASH_BY", "header:X-Tenant"),
        ("HEALTH_CHECK_PATH", "/"),
        ("HEALTH_CHECK_PATH", "/health?deep=1"),
    ],
)
def test_these_words_are_taken_as_they_are(name: str, value: str) -> None:
    assert getattr(load(Settings, {name: value}), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_CONFIG", "/etc/gateway.yaml"),
    ],
)
def test_what_this_version_does_not_have_stops_the_start(name: str, value: str) -> None:
    [fault] = faults(**{name: value})

    assert fault.startswith(f"{name}: ")
    assert "not available in this version" in fault


def test_the_server_listens_on_both_ports_at_the_same_address() -> None:
    made = load(Settings, {"HOST": "::1", "PORT": "3100", "OPERATIONS_PORT": "3101"})

    assert gunicorn_settings(made, "app:app")["bind"] == ["[::1]:3100", "[::1]:3101"]
    # What workers share is named by the public one.
    assert made.metrics_path == load(Settings, {"PORT": "3100"}).metrics_path


def test_the_operations_port_is_none_or_another_one() -> None:
    assert load(Settings, {}).ports == (3000,)
    assert load(Settings, {"PORT": "3100", "OPERATIONS_PORT": "3101"}).ports == (3100, 3101)
    assert faults(PORT="3100", OPERATIONS_PORT="3100") == [
        "OPERATIONS_PORT: another port than PORT (3100) needed"
    ]
    assert faults(OPERATIONS_PORT="3000") == ["OPERATIONS_PORT: another port than PORT (3000) needed"]


@pytest.mark.parametrize("name", ["AUTHENTICATION", "REDIS_URL", "GATEWAY_CONFIG", "OPERATIONS_PORT", "PORT"])
def test_an_empty_variable_is_unset(name: str) -> None:
    assert load(Settings, {name: "  "}) == load(Settings, {})


def test_all_faults_are_told_at_once() -> None:
    wrong = {
        "PORT": "x",
        "AUXILIARY_SERVICE_URL": "x",
        "CORS_ORIGINS": "x",
        "TRUSTED_PROXIES": "x",
        "AUTHENTICATION": "x",
        "REDIS_URL": "x",
        "INTERNAL_TOKEN": "x",
    }

    assert {fault.partition(":")[0] for fault in faults(**wrong)} == set(wrong)


def test_faults_of_one_setting_and_of_two_together_are_told_at_once() -> None:
    told = {fault.partition(":")[0] for fault in faults(LOG_LEVEL="x", POOL_SIZE="1", GUNICORN_THREADS="2")}

    assert told == {"LOG_LEVEL", "POOL_SIZE"}


def test_a_secret_is_not_repeated_in_its_fault() -> None:
    [fault] = faults(INTERNAL_TOKEN="canary with space")

    assert "canary" not in fault
