# Two commands start here: `make run` (the whole chain on the embedded world) and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := run
.PHONY: run test lint bench soak figures stack stack-status stack-down sbom audit clean

PYTHON ?= python3
VENV ?= .venv
STORE ?= softalign-store
RECIPE ?= shapes
# Tests run beside one another, each process with one thread: their matrices are too small for two.
TEST_WORKERS ?= logical --maxprocesses=4
TEST_THREADS ?= 1
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STACK_STAMP := $(VENV)/.installed-stack
AUDIT := $(VENV)/audit
AUDIT_STAMP := $(AUDIT)/.installed
PIP := PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off
INSTALL := $(BIN)/pip install -c infra/constraints.txt -e
PROGRESS := $(PYTHON) infra/with_progress.py

# PIP_NO_COMPILE and compileall on all cores: the same byte code as pip's own, sooner; halves the imports' time where
# PYTHONDONTWRITEBYTECODE is set. A package's file for another Python version may not compile: no error.
$(STAMP): pyproject.toml infra/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "softalign needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "Making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(PROGRESS) $(VENV)/install.log \
	  'Installing softalign and what it builds on: about 2 minutes and 2 GB' -- \
	  $(INSTALL) '.[pipeline,dev]'
	@$(PROGRESS) $(VENV)/compile.log 'Compiling to byte code, so that programs start sooner' -- \
	  $(SHELL) -c '$(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true'
	@touch $(STAMP)

# Apart, because an S3 server, database drivers and Ray are no part of a first run.
$(STACK_STAMP): $(STAMP)
	@$(PIP) $(PROGRESS) $(VENV)/install-stack.log 'Installing an S3 server, database drivers and Ray' -- \
	  $(INSTALL) '.[pipeline,stack,ray,dev]'
	@touch $(STACK_STAMP)

run: $(STAMP)  ## captions to a registered adapter; again: nothing to do
	@$(BIN)/softalign run $(RECIPE) --store $(STORE)

test: $(STACK_STAMP)  ## all tests but the slow and the GPU ones; fails below 85 % of softalign/'s lines
	OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/pytest -n $(TEST_WORKERS) --cov=softalign --cov-report=term:skip-covered --cov-fail-under=85

lint: $(STAMP)  ## style, types, import contracts, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python infra/sizes.py

soak: $(STACK_STAMP)  ## 200 small retrains through a stack of its own: all end, and what serves them keeps its size
	$(BIN)/python -m tests.bench.soak

bench: $(STAMP)  ## what orchestration, training steps, pulls, curation and reading cost, each beside what it is held against
	$(BIN)/python -m tests.bench.orchestration
	$(BIN)/python -m tests.bench.train_step
	$(BIN)/python -m tests.bench.pull
	$(BIN)/python -m tests.bench.curate_workers
	$(BIN)/python -m tests.bench.reader

figures: $(STAMP)  ## README's picture and diagram, from the finished run in the store
	$(BIN)/python infra/figures.py $(RECIPE) --store $(STORE)

stack: $(STACK_STAMP)  ## a server, a database, object storage, a registry and a worker on this machine
	$(BIN)/python infra/local_stack.py up

stack-status: $(STACK_STAMP)  ## what of it runs, and where
	$(BIN)/python infra/local_stack.py status

stack-down: $(STACK_STAMP)  ## stop it; all that it holds stays
	$(BIN)/python infra/local_stack.py down

# In an environment of their own: what they bring would be loaded by every process of ours (jsonschema takes rfc3987-syntax
# along where it is installed, which builds a grammar at each start of Prefect).
$(AUDIT_STAMP): infra/constraints.txt
	@$(PYTHON) -m venv $(AUDIT)
	@$(PIP) $(AUDIT)/bin/pip install -q -c infra/constraints.txt pip-audit cyclonedx-bom
	@touch $(AUDIT_STAMP)

sbom: $(STAMP) $(AUDIT_STAMP)  ## sbom.json: what the environment holds, as CycloneDX
	$(AUDIT)/bin/cyclonedx-py environment --output-reproducible --pyproject=pyproject.toml --output-file=sbom.json $(BIN)/python

audit: $(STAMP) $(AUDIT_STAMP)  ## known advisories of what is installed, without those that infra/advisories.toml accepts
	$(BIN)/python infra/audit.py $(AUDIT)/bin/pip-audit

clean:  ## forget the environment and the caches; the store and the stack stay
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
