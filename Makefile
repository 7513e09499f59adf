# The commands of the project. Everything is installed into $(VENV), which is made when it is missing, and installed again
# only when pyproject.toml or setup.cfg has changed. `make PYTHON=/path/to/python3.12 ...` chooses the interpreter.

VENV ?= .venv
# Candidates: the first one that runs, is supported and can make virtual environments is taken.
PYTHON ?= python3 python3.13 python3.12 python3.11
BIN := $(VENV)/bin
# Huge pages, where glibc and the system have them: CPU updates take less time (docs/performance.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
PACKAGING := pyproject.toml setup.cfg

.NOTPARALLEL:
.PHONY: help quickstart demo watch system test test-fast test-slow test-long test-versions check lint format clean

help:
	@echo "make quickstart   four Atari games on the CPU: train, evaluate, report -> runs/quickstart"
	@echo "make demo         toy tasks on the CPU, no ROM, no GL -> runs/demo"
	@echo "make watch        an agent that has learned four Atari games plays them, beside what it imagines -> runs/watch"
	@echo "make test         all tests but the long ones: system, the fast (make test-fast), then the slow (make test-slow)"
	@echo "make system       what tests take from the system: installed where root and apt-get are here, else named"
	@echo "make test-long    tests of minutes each: several processes killed and moved, every number of devices"
	@echo "make test-versions   wheel, toy run and fast tests on Python 3.11, 3.12, 3.13 and with the oldest dependencies"
	@echo "make check        what a commit must pass: format, lint, types, fast tests"
	@echo "make format       rewrites the code in the project's format"
	@echo "make clean        removes .venv and what tools have cached; runs/ stays"

quickstart: $(VENV)/.installed-all
	$(BIN)/python -m mow_jax.train --config=experiments/quickstart.py --workdir=runs/quickstart
	$(BIN)/python -m mow_jax.report --workdir=runs/quickstart

demo: $(VENV)/.installed-core
	$(BIN)/python -m mow_jax.train --config=experiments/demo.py --workdir=runs/demo
	$(BIN)/python -m mow_jax.report --workdir=runs/demo

watch: $(VENV)/.installed-all
	$(BIN)/python -m mow_jax.evaluate --workdir=results/atari_cpu/agent.npz --out=runs/watch --episodes=1
	$(BIN)/python -m mow_jax.report --workdir=runs/watch

system:
	@.ci/system

test: system test-fast test-slow

test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow and not long"

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "slow and not long"

# One at a time: each starts several processes of its own.
test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 0 -m long

test-versions:
	.ci/versions $(VERSIONS)

check: lint test-fast

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build mow_jax.egg-info .pytest_cache .ruff_cache .mypy_cache
	find mow_jax experiments tests -name __pycache__ -prune -exec rm -rf {} +

# A larger installation contains the smaller ones.
$(VENV)/.installed-core: $(PACKAGING) | $(BIN)/pip
	$(BIN)/python -m pip install -e .
	@touch $@

$(VENV)/.installed-all: $(PACKAGING) | $(BIN)/pip
	$(BIN)/python -m pip install -e ".[all]"
	@touch $@ $(VENV)/.installed-core

$(VENV)/.installed-dev: $(PACKAGING) | $(BIN)/pip
	$(BIN)/python -m pip install -e ".[all,dev]"
	@touch $@ $(VENV)/.installed-all $(VENV)/.installed-core

# pip comes last into a new environment: where it is, the environment is complete.
$(BIN)/pip:
	@for python in $(PYTHON); do \
	    "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || continue; \
	    echo "$$python -m venv $(VENV)"; \
	    "$$python" -m venv "$(VENV)"; exit; \
	done; \
	echo "No supported Python among: $(PYTHON)." >&2; \
	echo "Needed: Python 3.11, 3.12 or 3.13 with its venv module (Debian: apt-get install python3-venv)." >&2; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1
