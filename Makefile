# The commands of the README. PYTHON may name another interpreter (>= 3.11).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that share the tests, one thread each (some of the slow ones start several themselves).
WORKERS ?= 2

.PHONY: help demo test test-slow mutants mutants-sample check format reports study docs clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "fdlab needs Python 3.11 or newer; set PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,dev]'
	touch $@

demo: $(VENV)/.installed  ## the whole small study on real digits, about five minutes on two cores
	$(BIN)/fdlab demo

check: $(VENV)/.installed-dev  ## lint, types and the arrows between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## checks, the fast tests and the examples in docstrings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --durations=15 -m 'not slow'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --doctest-modules fdlab

test-slow: $(VENV)/.installed-dev  ## the remaining tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --durations=15 -m slow

mutants: $(VENV)/.installed-dev  ## known faults, one at a time, and whether the tests notice them; some minutes
	$(BIN)/python tests/mutants/run.py

mutants-sample: $(VENV)/.installed-dev  ## changes drawn by chance in files of every room (tests/mutants/sample.toml); some 20 minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	$(BIN)/python tests/mutants/sample.py

format: $(VENV)/.installed-dev  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reports: $(VENV)/.installed  ## make the committed galleries again
	$(BIN)/python analyses/digits_gallery.py
	$(BIN)/python analyses/curvature_gallery.py

# ARGS: e.g. ARGS="--size gpu --workers 1"; see analyses/cifar_study.py.
study: $(VENV)/.installed-dev  ## the study on CIFAR-10, hours on two cores; continues where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python analyses/cifar_study.py $(ARGS)

docs: $(VENV)/.installed-dev  ## the documentation's site, in build/site; strict: a broken link is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove the environment
	rm -rf $(VENV)
