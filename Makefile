# The Python to build .venv with: the first of these that is 3.10 to 3.13. Choose one with make PYTHON=...
SUITS := import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c '$(SUITS)' 2> /dev/null && echo $$p && break; done)
endif
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint types tests venv devcluster golden lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## install, then plan and train a small GPT over 8 CPU processes
	$(BIN)/orchestrate train experiment=quickstart $(ARGS)

test: lint types tests ## lint, types and all tests

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

tests: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(ARGS)

venv: $(VENV)/installed-dev ## make .venv from constraints.txt, with what the tests need

# Both are rebuilt only when the pins or the dependencies change; the package itself is installed editable.
$(VENV)/installed: constraints.txt pyproject.toml
	@$(or $(PYTHON),false) -c '$(SUITS)' || { echo "needs Python 3.10 to 3.13: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) with $(PYTHON): some minutes, once"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(INSTALL) --editable '.[dev]'
	@touch $@

devcluster: ## bring up a real Slurm cluster on this machine, with ARGS such as --nodes=2; needs root
	slurm/devcluster up $(ARGS)

golden: $(VENV)/installed-dev ## write the files of tests/golden/ anew, to be looked at before they are kept
	$(BIN)/python -m pytest tests/unit/test_slurm_script.py tests/unit/test_slurm_docs.py --renew-golden

lock: $(VENV)/installed-dev ## resolve constraints.txt for every Python, keeping the pins that still fit
	$(INSTALL) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra dev --no-annotate --no-emit-index-url \
		--custom-compile-command "make lock" --output-file constraints.txt pyproject.toml

clean: ## remove .venv, caches and builds; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
