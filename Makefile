# Every target sets up what it needs in .venv first. `make help` lists them.
#
# Needs Python 3.11 or newer with venv and pip, make and git; no C compiler: the default one is a wheel.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
VENV ?= .venv
# Package index for PyTorch alone; empty: pip's own configuration decides.
TORCH_INDEX ?=
# Test processes. Two suit a small machine; PyTorch needs about half a gigabyte in each.
JOBS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'
	@echo
	@echo '  PYTHON=python3.12   the interpreter to build $(VENV) with'
	@echo '  TORCH_INDEX=URL     package index for PyTorch alone, when $(VENV) is made;'
	@echo '                      https://download.pytorch.org/whl/cpu has the small CPU build'
	@echo '  JOBS=8              test processes (default 2)'
	@echo '  PYTEST_ARGS=...     passed to pytest, for example PYTEST_ARGS="-k speechnet"'

.PHONY: demo
demo: $(VENV)/demo.stamp ## Train SpeechNet for four steps on the simulated cluster and compare every number with PyTorch
	$(BIN)/tilegrad train speechnet --target siracusa --steps 4

# One thread each: the test processes fill the cores themselves.
.PHONY: test
test: $(VENV)/dev.stamp ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/dev.stamp ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/dev.stamp ## Check types (mypy --strict)
	$(BIN)/mypy

.PHONY: format
format: $(VENV)/dev.stamp ## Format the sources and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/dev.stamp ## Run the benchmarks
	for script in benchmarks/*.py; do $(BIN)/python "$$script"; done

.PHONY: clean
clean: ## Remove everything that the other targets made, the virtual environment included
	rm -rf $(VENV) build dist out src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment with PyTorch. Its index serves nothing else: the dependencies come from the usual one.
$(VENV)/torch.stamp: constraints.txt
	@command -v $(PYTHON) >/dev/null \
	    || { echo 'error: $(PYTHON) was not found; install Python 3.11 or newer, or name one: make PYTHON=...' >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "error: TileGrad needs Python 3.11 or newer and $(PYTHON) is $$($(PYTHON) -V); name another: make PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo 'error: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) setuptools
	$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url '$(TORCH_INDEX)' torch)
	$(PIP) torch
	@touch $@

# No build isolation: the build back end is the one that constraints.txt pins.
$(VENV)/demo.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) --no-build-isolation --editable '.[torch]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@ $(VENV)/demo.stamp
