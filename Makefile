# `make demo` and `make test` need Python 3.11 or newer and make, nothing else: they build .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help env demo test check format table clean

help:
	@echo "make demo    repair the embedded specimen and write a report (two minutes at most)"
	@echo "make test    lint, types, import contract, tests"
	@echo "make table   measure what is missing of the README's table for preset paper (needs ../shared)"
	@echo "make clean   remove the environment and caches"

env: $(READY)

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(READY)

demo: $(READY)
	$(BIN)/secateur demo --out secateur-demo --force

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

table: $(READY)
	$(BIN)/python benchmarks/checkpoints.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache secateur-demo
