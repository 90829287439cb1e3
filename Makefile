# Two commands do everything: `make demo` and `make test`. Each sets up .venv first, from nothing but Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Tests start hundreds of interpreters. Where bytecode is not kept, each of them compiles all modules anew.
export PYTHONDONTWRITEBYTECODE :=
# Neighbouring tests stay in one process, where they share what a module's fixtures make; an idle process takes over.
PARALLEL := -n auto --dist worksteal

.PHONY: demo test test-fast coverage faults mutants audit lint format docs package browser clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## condense the embedded digits, compare with random real images, write a report
	$(BIN)/python -m benchmarks.demo --out demo

test: $(VENV)/.installed browser  ## the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PARALLEL)

browser:  ## a Chromium for the tests of reports, which are skipped without one
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	|| echo "no Chromium could be installed: install one to test reports in a browser"

test-fast: $(VENV)/.installed  ## without the tests marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PARALLEL) -m "not slow"

coverage: $(VENV)/.installed  ## which branches the suite does not reach
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q $(PARALLEL)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --show-missing --skip-covered

faults: $(VENV)/.installed  ## many more injected faults and random inputs than the suite tries: an hour or more; goes on
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/long.py faults.jsonl

mutants: $(VENV)/.installed  ## whether the tests notice small changes of losses, augmentation, rankings and memories
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py 50

audit:  ## whether the tested versions have known holes; fails, too, where the advisories cannot be reached
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet pip-audit
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

lint: $(VENV)/.installed  ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.installed  ## the documentation as a site in build/site; any warning fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

package: $(VENV)/.installed  ## build the wheel, install it into a clean environment, run the tutorials with it
	rm -rf build/wheel && $(BIN)/python -m build --outdir build/wheel
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/pip install --quiet -c constraints.txt build/wheel/*.whl
	cd build/wheel && venv/bin/python ../../tests/docs/blocks.py ../../docs/tutorial/*.md
	du -sh build/wheel/venv

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo runs build dist *.egg-info
