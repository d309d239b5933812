"""The chassis is a closed list of rooms, and those that others import early stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    "install",
    "errors",
    "error_body",
    "request_id",
    "tracing",
    "json_logs",
    "access_log",
    "metrics",
    "health",
    "settings",
    "setting_fields",
    "client_address",
    "response_headers",
    "worker",
    "drain",
}
LIGHT = [
    "chassis",
    "chassis.errors",
    "chassis.settings",
    "chassis.setting_fields",
    "chassis.json_logs",
    "chassis.worker",
    "chassis.drain",
]


def test_the_chassis_has_exactly_these_rooms() -> None:
    rooms = (ROOT / "chassis").iterdir()
    found = {path.stem for path in rooms if path.suffix == ".py" or (path / "__init__.py").exists()}

    assert found - {"__init__"} == MODULES


@pytest.mark.parametrize("module", LIGHT)
def test_what_gunicorn_and_the_policies_import_loads_no_flask(module: str) -> None:
    script = f"import sys, {module}; print(sorted({{'flask', 'werkzeug'}} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
