# Two commands start here: `make run` (the whole chain on the embedded world) and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := run
.PHONY: run test lint bench stack clean

PYTHON ?= python3
VENV ?= .venv
STORE ?= softalign-store
RECIPE ?= shapes
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROGRESS := $(PYTHON) infra/with_progress.py

# PIP_NO_COMPILE and compileall on all cores: the same byte code as pip's own, sooner; halves the imports' time where
# PYTHONDONTWRITEBYTECODE is set. A package's file for another Python version may not compile: no error.
$(STAMP): pyproject.toml infra/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "softalign needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "Making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off $(PROGRESS) $(VENV)/install.log \
	  'Installing softalign and what it builds on: about 2 minutes and 2 GB' -- \
	  $(BIN)/pip install -c infra/constraints.txt -e '.[pipeline,dev]'
	@$(PROGRESS) $(VENV)/compile.log 'Compiling to byte code, so that programs start sooner' -- \
	  $(SHELL) -c '$(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true'
	@touch $(STAMP)

run: $(STAMP)  ## captions to a registered adapter; again: nothing to do
	@$(BIN)/softalign run $(RECIPE) --store $(STORE)

test: $(STAMP)  ## all tests but the slow and the GPU ones; fails below 85 % of softalign/'s lines
	$(BIN)/pytest --cov=softalign --cov-report=term:skip-covered --cov-fail-under=85

lint: $(STAMP)  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## what orchestration costs, and a training step beside the plain loop
	$(BIN)/python -m tests.bench.orchestration
	$(BIN)/python -m tests.bench.train_step

stack: $(STAMP)  ## a server, a database, object storage and a registry on this machine
	$(BIN)/pip install -q -c infra/constraints.txt -e '.[pipeline,stack]'
	$(BIN)/python infra/local_stack.py up

clean:  ## forget the environment and the caches; the store stays
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
