# Everything that is done with this checkout. GNU make 3.81 (macOS has it) is enough.

PYTHON ?= python3
AWS ?= local
GATEWAY_PORT ?= 3000
AUXILIARY_PORT ?= 3001
AWS_PORT ?= 4566
ARGS ?=
LONG ?=

# `python -m` puts the checkout on the import path: nothing of it has to be installed.
IN_VENV = .venv/bin/python -m
INSTALLED = .venv/installed
REQUIREMENTS = requirements/main_api.txt requirements/auxiliary_service.txt requirements/development.txt
PIP_INSTALL = pip install --quiet --disable-pip-version-check $(REQUIREMENTS:%=-r %)

.PHONY: help run test check faults routes pins clean

help:  ## list these verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

run: $(INSTALLED)  ## start everything on 127.0.0.1 (AWS=real: your account; GATEWAY_PORT= AUXILIARY_PORT= AWS_PORT=)
	@$(IN_VENV) dev.run --aws $(AWS) \
		--gateway-port $(GATEWAY_PORT) --auxiliary-port $(AUXILIARY_PORT) --aws-port $(AWS_PORT)

test: $(INSTALLED)  ## run the tests (ARGS="-k health -x" goes to pytest)
	@$(IN_VENV) pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/faults $(ARGS)

check: $(INSTALLED)  ## check format, style, types, layers and documents
	@$(IN_VENV) ruff format --check .
	@$(IN_VENV) ruff check .
	@$(IN_VENV) mypy
	@.venv/bin/lint-imports
	@$(IN_VENV) pytest --quiet tests/contracts/test_settings_documented.py

faults: $(INSTALLED)  ## kill, stop, overload and deceive real processes, some twenty-five minutes (LONG=1: more of it)
	@LONG=$(LONG) $(IN_VENV) pytest --verbosity 1 --capture no tests/faults $(ARGS)

routes: $(INSTALLED)  ## print the gateway's routes: methods, path, links of the chain
	@$(IN_VENV) main_api.cli routes

pins:  ## write constraints.txt anew: the newest versions that requirements/ allows
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(IN_VENV) $(PIP_INSTALL)
	sed '/^[^#]/d' constraints.txt > .venv/pins
	$(IN_VENV) pip freeze >> .venv/pins
	mv .venv/pins constraints.txt
	touch $(INSTALLED)

clean:  ## remove what these verbs made
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made from nothing whenever a version may have changed. One that was broken off has no stamp and is made again.
$(INSTALLED): constraints.txt $(REQUIREMENTS)
	@command -v $(PYTHON) > /dev/null || { \
		echo "There is no $(PYTHON): install Python 3.11 or newer, or name it: make PYTHON=python3.12 run" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is too old: install Python 3.11 or newer, or name it: make PYTHON=python3.12 run" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
		echo "$(PYTHON) has no venv and ensurepip: install them (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing into .venv (about a minute, this time only) ..."
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(IN_VENV) $(PIP_INSTALL) -c constraints.txt
	@touch $(INSTALLED)
