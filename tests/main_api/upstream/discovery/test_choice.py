"""Which source an address means."""

import pytest

from chassis.settings import load
from main_api.setting_fields import Registered
from main_api.settings import Settings
from main_api.upstream.discovery.choice import source


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("dns://a.test:3001", "AddressRecords"),
        ("srv://_http._tcp.a.test", "ServiceRecords"),
        ("consul://a?dc=eu&tag=b&ns=c", "ConsulSource"),
        ("etcd://services/a", "EtcdSource"),
    ],
)
def test_each_scheme_has_its_source_which_bears_the_address_as_its_name(text: str, kind: str) -> None:
    settings = load(Settings, {"AUXILIARY_SERVICE_URL": text, "DNS_SERVERS": "127.0.0.1:8600"})
    where = settings.auxiliary_service_url
    assert isinstance(where, Registered)

    made = source(
        where,
        consul_url=settings.consul_http_addr,
        consul_token="token",
        etcd_endpoints=settings.etcd_endpoints,
        dns_servers=settings.dns_servers,
    )

    assert (type(made).__name__, made.name) == (kind, text)
    made.close()
