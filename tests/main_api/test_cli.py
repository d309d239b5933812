"""The command line."""

import os

import pytest

from main_api import cli

HELP = "usage: main-api"
LINKS = "admission > retry > balance > breaker > send"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PORT",
        "AUXILIARY_SERVICE_URL",
        "LOG_LEVEL",
        "POOL_SIZE",
        "GUNICORN_THREADS",
        "INTERNAL_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)


def test_routes_are_tab_separated_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["routes"]) == 0

    printed = capsys.readouterr()
    lines = [line.split("\t") for line in printed.out.splitlines()]
    assert {len(columns) for columns in lines} == {3}
    assert ["GET", "/api/s3/buckets", LINKS] in lines
    assert ["GET", "/api/parameters", f"scopes > {LINKS}"] in lines
    assert ["GET", "/api/health/ready", "function"] in lines
    assert printed.err == ""


def test_routes_are_those_of_the_app(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.main_api.support import Answer, Upstream, app_of

    cli.main(["routes"])

    plain = {"/api/health", "/api/health/serving", "/metrics"}
    rules = {rule.rule for rule in app_of(Upstream(Answer())).url_map.iter_rules()}
    assert {line.split("\t")[1] for line in capsys.readouterr().out.splitlines()} == rules - plain


def test_wrong_settings_are_2_and_each_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("LOG_LEVEL", "loud")

    assert cli.main(["routes"]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "PORT" in printed.err
    assert "LOG_LEVEL" in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), (["routes", "--help"], 0), ([], 2), (["x"], 2)]
)
def test_help_is_0_and_what_is_no_command_is_2(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)

    printed = capsys.readouterr()
    assert ended.value.code == status
    assert HELP in printed.out + printed.err


def test_without_arguments_the_processs_own_are_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["main-api", "routes"])

    assert cli.main() == 0
    assert os.linesep in capsys.readouterr().out
