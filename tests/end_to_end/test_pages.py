"""The pages in a real browser, without any network but the loopback."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.processes import HOST, Server, servers

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium to have the pages looked at"
)

Look = Callable[[int, str], str]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Open a path in the browser and give the page as it is after its scripts; no script may complain."""

    def open_page(port: int, path: str) -> str:
        assert CHROMIUM is not None
        done = subprocess.run(
            [
                CHROMIUM,
                *QUIET,
                f"--user-data-dir={tmp_path}",
                "--virtual-time-budget=8000",
                "--dump-dom",
                f"http://{HOST}:{port}{path}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert re.findall(r":CONSOLE.*", done.stderr) == []
        return done.stdout

    return open_page


def test_the_page_shows_that_the_pair_is_ready(pair: dict[str, Server], look: Look) -> None:
    page = look(pair["gateway"].port, "/")

    assert 'data-state="ready"' in page
    assert "<dt>auxiliary-service</dt><dd>1.0.0</dd>" in page


def test_the_documentation_shows_every_endpoint(pair: dict[str, Server], look: Look) -> None:
    page = look(pair["gateway"].port, "/docs")

    for path in ("/api/s3/buckets", "/api/parameters/list", "/api/health/ready"):
        assert f'data-path="{path}"' in page


def test_the_page_shows_that_the_pair_is_not_ready(look: Look) -> None:
    with servers("gateway") as running:
        page = look(running["gateway"].port, "/")

    assert 'data-state="not-ready"' in page
    assert "Auxiliary service not available" in page
