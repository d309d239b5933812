"""Policies and what travels load no Flask and no requests, whatever they import through others."""

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import main_api.policies

ROOT = Path(main_api.policies.__file__).parents[2]
MODULES = [
    "main_api.exchange",
    "main_api.errors",
    "main_api.policies",
    *(f"main_api.policies.{each.name}" for each in pkgutil.iter_modules(main_api.policies.__path__)),
    "main_api.accounts.credentials",
    "main_api.accounts.issuers",
    # What gunicorn's configuration loads before the fork.
    "chassis",
    "chassis.errors",
]
FOREIGN = ("flask", "werkzeug", "requests", "urllib3", "boto3", "botocore", "prometheus_client")


@pytest.mark.parametrize("module", MODULES)
def test_a_fresh_interpreter_that_imports_it_has_none_of_these(module: str) -> None:
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout

    assert module in json.loads(loaded)
    assert not [name for name in json.loads(loaded) if name.partition(".")[0] in FOREIGN]


def test_the_modules_are_really_there() -> None:
    assert {"main_api.policies.balance", "main_api.policies.scopes"} <= set(MODULES)
    for module in MODULES:
        importlib.import_module(module)
