# `make demo` and `make test` make the virtual environments they need, install once, and reuse them afterwards.

PYTHON ?= python3
VENV := .venv
OLD_VENV := .venv-tflite-runtime
DEPENDENCIES := pyproject.toml constraints.txt
PIP_INSTALL := -m pip --disable-pip-version-check install -qq

# tflite-runtime has wheels for Python 3.10 and 3.11 on Linux alone.
OLD_PYTHON = $(shell for python in python3.11 python3.10 $(PYTHON); do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.platform != "linux" or not (3, 10) <= sys.version_info < (3, 12))' \
	2>/dev/null && echo $$python && break; done)

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo help test-arm64 test test-all lint audit map test-tflite-runtime clean

# Files side by side, each file in one process. Of a property `make test` draws a share of the examples, `make test-all` all.
PYTEST = -m pytest -n "$$(nproc)" --dist loadfile --no-loadscope-reorder

# What the runtime decides is tested in both: all of tests/models but what only plans, reads and draws.
SAME_IN_BOTH = $(foreach name,card cost devices division draw extents files flatbuffer guess metadata partition planner readings search simulation tensor,\
	--ignore tests/models/test_$(name).py)

demo: $(VENV)/.installed  ## a whole cluster on this machine, and the address of its dashboard
	$(VENV)/bin/dt demo

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*  ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

test-all: export DT_EXAMPLES = all
test-all: test  ## every check and test, with all examples, models and grids

test: lint audit  ## every check and test, in two runtimes, with a share of the examples
	@echo "== pytest"
	@$(VENV)/bin/python $(PYTEST)
	@if [ -n "$(OLD_PYTHON)" ]; then $(MAKE) --no-print-directory test-tflite-runtime; \
	else echo "== skipped: tests/models with tflite-runtime, which needs Python 3.10 or 3.11 with venv"; fi

lint: $(VENV)/.installed-test  ## ruff, import-linter, mypy
	@echo "== ruff, import-linter, mypy"
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/lint-imports --no-logo
	@$(VENV)/bin/python tests/map.py >/dev/null
	@$(VENV)/bin/mypy

# A known hole in what we pin fails; where nobody can be asked, a line says so. The tests' own passwords are no secrets.
SECRETS = --no-verify $(addprefix --disable-plugin ,Base64HighEntropyString HexHighEntropyString KeywordDetector BasicAuthDetector)

audit: $(VENV)/.installed-test  ## known holes in what is pinned, secrets in what is committed
	@echo "== pip-audit, detect-secrets"
	@said=$$($(VENV)/bin/pip-audit -r constraints.txt --no-deps --disable-pip --progress-spinner off --timeout 15 2>&1) || { \
		if echo "$$said" | grep -q '^Found [0-9]'; then echo "$$said"; exit 1; fi; \
		echo "== skipped: pip-audit, for its service cannot be reached"; }
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
		git ls-files -z | xargs -0 $(VENV)/bin/detect-secrets-hook $(SECRETS); \
	else echo "== skipped: detect-secrets, for this is no git checkout"; fi

# Optional, as root: in a Debian of arm64 that it makes once in ~/.cache/deepthings; it says what it lacks.
test-arm64: $(VENV)/.installed  ## as root: exactness on emulated Raspberry Pis
	@$(VENV)/bin/python -m tests.arm64.emulate

test-tflite-runtime: $(OLD_VENV)/.installed  ## tests/models in the older runtime
	@echo "== pytest tests/models with tflite-runtime"
	@PYTHONPATH=. $(OLD_VENV)/bin/python $(PYTEST) $(SAME_IN_BOTH) tests/models

map:  ## which room imports which, and whether an arrow runs up or in a circle
	@$(PYTHON) tests/map.py

clean:  ## remove the virtual environments and what tools have left
	rm -rf $(VENV) $(OLD_VENV) build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: $(DEPENDENCIES) | $(VENV)/.made
	@echo "== installing into $(VENV)"
	@$(VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e '.[gateway,camera,dashboard]'
	@touch $@

$(VENV)/.installed-test: $(DEPENDENCIES) | $(VENV)/.made
	@echo "== installing with test tools into $(VENV)"
	@$(VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e '.[gateway,camera,dashboard,test]'
	@touch $@ $(VENV)/.installed

$(OLD_VENV)/.installed: constraints-tflite-runtime.txt | $(OLD_VENV)/.made
	@echo "== installing into $(OLD_VENV)"
	@$(OLD_VENV)/bin/python $(PIP_INSTALL) -r constraints-tflite-runtime.txt
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$(PYTHON) is missing or older than Python 3.10: name another one, as in make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make a virtual environment: install its venv (Debian: apt install python3-venv)" >&2; exit 2; }
	@echo "== making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(OLD_VENV)/.made:
	@echo "== making $(OLD_VENV) with $$($(OLD_PYTHON) --version)"
	@$(OLD_PYTHON) -m venv --clear $(OLD_VENV)
	@touch $@
