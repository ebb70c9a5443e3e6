PYTHON ?= python3
BIN := .venv/bin
# Two workers of one thread each: threads that share two cores spin.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-all torture mutants lint format docs site figures bench clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable .
	@touch $@

.venv/test: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[test]'
	@touch $@ .venv/core

.venv/docs: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[docs]'
	@touch $@ .venv/core

# The playground is tried in Debian's Chromium; where it cannot be had, its tests in a browser are left out and say so.
.venv/browser: | .venv/test
	@command -v chromium > /dev/null || { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium > /dev/null; } || \
	  echo "no Chromium here: the playground is not tried in a browser (Debian: apt-get install chromium)"
	@touch $@

# Not compiling what is never imported halves the installation; what is imported is compiled and kept by the first run.
demo: .venv/core  ## set up, train on real digits, sample, measure, write runs/demo/report.html
	PYTHONDONTWRITEBYTECODE= $(BIN)/langevin demo

test: .venv/test .venv/browser  ## set up, lint, check types, run the tests (ten to twenty minutes on two cores)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

test-all: .venv/test .venv/browser  ## the tests and the slow ones: long training, full sweeps
	$(PYTEST) -m 'slow or not slow'

torture: .venv/test  ## kill writers and runs, fuzz every reader, for hours; one table of what stood
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,fuzz]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture.py

mutants: .venv/test  ## change random lines of the mathematics, list what no test notices (hours; goes on where it was)
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py --jobs 2 $(ARGS)

lint: .venv/test  ## lint, formatting and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/test  ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/test  ## make the pictures and the table of methods again
	$(BIN)/python docs/make.py

site: .venv/docs  ## build the documentation as a web site in build/site: warnings are errors (three minutes, then seconds)
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going --quiet -b html -d build/doctrees docs build/site
	@echo "The site is in build/site/index.html"

figures: .venv/test  ## print recorded benchmarks into the docs, and say which are older than the code
	$(BIN)/python benchmarks/record.py

bench: .venv/test  ## print every benchmark's table (let the machine be idle)
	@for script in $(filter-out benchmarks/record.py benchmarks/fit_grid.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove the environment and what runs left behind
	rm -rf .venv runs out build docs/reference .pytest_cache .mypy_cache .ruff_cache
