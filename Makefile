# Two commands do everything: `make demo` and `make test`. Each sets up .venv first, from nothing but Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast faults lint format clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## condense the embedded digits, compare with random real images, write a report
	$(BIN)/python -m benchmarks.demo --out demo

test: $(VENV)/.installed  ## the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

test-fast: $(VENV)/.installed  ## without the tests marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m "not slow"

faults: $(VENV)/.installed  ## many more injected faults and random inputs than the suite tries: an hour or more; goes on
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/long.py faults.jsonl

lint: $(VENV)/.installed  ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo runs build dist *.egg-info
