"""The way in of gunicorn."""

import importlib

import pytest
from flask import Flask

from chassis.settings import SettingsError


def test_the_application_is_made_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_VERSION", "9.8.7")
    wsgi = importlib.reload(importlib.import_module("auxiliary_service.wsgi"))
    assert isinstance(wsgi.app, Flask)
    assert wsgi.app.test_client().get("/version").json == {"service": "auxiliary-service", "version": "9.8.7"}


def test_without_the_folder_of_the_metrics_it_says_how_to_start() -> None:
    wsgi = importlib.import_module("auxiliary_service.wsgi")
    with pytest.raises(RuntimeError, match=r"gunicorn -c auxiliary_service/gunicorn_conf\.py"):
        wsgi.make({})


def test_every_fault_of_the_environment_is_told_at_once() -> None:
    wsgi = importlib.import_module("auxiliary_service.wsgi")
    with pytest.raises(SettingsError) as caught:
        wsgi.make({"PROMETHEUS_MULTIPROC_DIR": "set", "PORT": "x", "PROJECT_NAME": "/"})
    assert len(caught.value.faults) == 2
