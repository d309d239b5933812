"""README.md and .env.example name exactly what the code has: settings, error codes, routes."""

import importlib
import pkgutil
import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest

import auxiliary_service
import chassis
import main_api
from auxiliary_service.app import create_app as create_auxiliary
from auxiliary_service.aws.clients import Clients
from auxiliary_service.settings import Settings as AuxiliarySettings
from chassis.errors import ServiceError
from chassis.settings import ServiceSettings, describe, load
from main_api.app import create_app as create_gateway
from main_api.settings import Settings as GatewaySettings
from tests.contracts.accounts import write

ROOT = Path(main_api.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
SERVICES = (GatewaySettings, AuxiliarySettings)
DECLARED = {(each.name, each.default) for service in SERVICES for each in describe(service)}
NAMES = {name for name, _ in DECLARED}

TABLE_ROW = re.compile(r"^\| `([A-Z][A-Z0-9_]*)` \| (?:`([^`|]*)`)? ?\|", re.MULTILINE)
EXAMPLE_LINE = re.compile(r"^# ?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)
# Parts of a page: nobody asks for them by hand.
ASSETS = ("/console/", "/docs/")


def test_both_services_declare_settings() -> None:
    assert len(DECLARED) > 20
    assert ("PORT", "3000") in DECLARED
    assert ("PORT", "3001") in DECLARED


def test_the_readmes_tables_name_exactly_the_settings_with_their_defaults() -> None:
    assert set(TABLE_ROW.findall(README)) == DECLARED


def test_no_table_names_a_setting_twice_with_the_same_default() -> None:
    assert [row for row, count in Counter(TABLE_ROW.findall(README)).items() if count > 1] == []


def test_the_example_names_exactly_the_settings_with_their_defaults() -> None:
    assert {(name, value.strip().strip('"')) for name, value in EXAMPLE_LINE.findall(EXAMPLE)} == DECLARED


def test_every_setting_of_the_example_is_a_comment() -> None:
    assert [line for line in EXAMPLE.splitlines() if line.strip() and not line.startswith("#")] == []


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.SERVICE)
def test_every_setting_has_a_sentence(service: type[ServiceSettings]) -> None:
    assert all(each.text for each in describe(service))


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.SERVICE)
def test_what_is_not_available_yet_is_neither_a_setting_nor_in_the_example(
    service: type[ServiceSettings],
) -> None:
    named = {name for name, _ in EXAMPLE_LINE.findall(EXAMPLE)}

    assert not set(service.UNAVAILABLE) & (NAMES | named)


def codes() -> set[str]:
    """Give the code of every error class of the code base."""
    for package in (chassis, main_api, auxiliary_service):
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if each.name.endswith(".errors"):
                importlib.import_module(each.name)
    found: set[str] = set()
    waiting: list[type[ServiceError]] = [ServiceError]
    while waiting:
        each = waiting.pop()
        waiting += each.__subclasses__()
        if each.__module__.partition(".")[0] in ("chassis", "main_api", "auxiliary_service"):
            found.add(each.code)
    return found


CODES = codes()


def test_the_codes_of_both_services_are_found() -> None:
    assert {"internal_error", "bad_gateway", "aws_throttled", "parameter_not_found"} <= CODES


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_error_code_is_in_the_readme(code: str) -> None:
    assert f"`{code}`" in README


def test_the_readmes_table_of_errors_names_no_code_that_does_not_exist() -> None:
    rows = re.findall(r"^\| [45][0-9, ]+ \| (`[^|]*) \|", README, re.MULTILINE)

    assert rows
    assert {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)} == CODES


def routes() -> set[str]:
    """Give the paths that the gateway serves, those of accounts too."""
    with tempfile.TemporaryDirectory() as folder:
        people = write(Path(folder) / "accounts.yaml")
        gateway = create_gateway(load(GatewaySettings, people.environment()))
    rules = {rule.rule for rule in gateway.url_map.iter_rules()}
    return {rule for rule in rules if not rule.startswith(ASSETS)}


@pytest.mark.parametrize("rule", sorted(routes()))
def test_every_route_of_the_gateway_is_in_the_readme(rule: str) -> None:
    assert re.search(rf"`(?:GET |POST )?{re.escape(rule)}(?:\?[^`]*)?`", README)


def test_every_route_of_the_auxiliary_is_in_the_readme() -> None:
    unused: object = object()
    app = create_auxiliary(AuxiliarySettings(), Clients(s3=unused, ssm=unused))  # type: ignore[arg-type]
    rules = {rule.rule for rule in app.url_map.iter_rules()}

    assert rules
    assert [
        rule
        for rule in sorted(rules)
        if not re.search(rf"`(?:GET |POST )?{re.escape(rule)}(?:\?[^`]*)?`", README)
    ] == []


def test_the_readmes_tables_of_routes_name_none_that_does_not_exist() -> None:
    named = set(re.findall(r"`(?:GET|POST) (/[^`? ]*)", README))
    unused: object = object()
    auxiliary = create_auxiliary(AuxiliarySettings(), Clients(s3=unused, ssm=unused))  # type: ignore[arg-type]

    assert named <= routes() | {rule.rule for rule in auxiliary.url_map.iter_rules()}
