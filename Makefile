# All tasks of developers and CI. `make help` prints the targets with the comments after them.

PYTHON ?= python3
ARGS   ?=

VENV := .venv
BIN  := $(VENV)/bin
# Written last, so that an interrupted set-up starts from the beginning and a finished one never runs twice.
READY := $(VENV)/.ready
# One process per core; tests of one file stay together, because they share fixtures. In the order of the folders, the
# files with few but long tests do not come last, when the other processes have nothing left to do.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
# Python keeps what it has compiled, whatever the environment says: the tests start a hundred processes.
export PYTHONDONTWRITEBYTECODE :=
# The environment of the benchmarks: the peers and this package.
PEERS := .venv-bench

.DEFAULT_GOAL := help
STAGES := pretrain transfer meta-train evaluate
.PHONY: help setup demo $(STAGES) chain smoke test test-medium test-all test-slurm test-browser lint types format build clean bench bench-scaling check-gpu

##@ Start here

help: ## show this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@printf '\nARGS= is passed on: make pretrain ARGS="model=gan seed=1", make test ARGS="-k maml"\n'

setup: $(READY) ## create .venv with the versions of constraints.txt (once; the other targets call it)

demo: $(READY) ## the whole chain on the built-in data, ending in a table of each stage's gain
	$(BIN)/mlx run backbone.hidden=32 $(ARGS)

##@ Stages

pretrain: $(READY) ## learn a representation without labels
	$(BIN)/mlx pretrain $(ARGS)

transfer: $(READY) ## carry it over to a related labelled task
	$(BIN)/mlx transfer $(ARGS)

meta-train: $(READY) ## learn to learn over many tasks
	$(BIN)/mlx meta-train $(ARGS)

evaluate: $(READY) ## accuracy on unseen classes, with a 95 % interval
	$(BIN)/mlx evaluate $(ARGS)

chain: $(READY) ## all four, one after the other; skips what is already done
	$(BIN)/mlx run $(ARGS)

smoke: $(READY) ## the chain in under a minute, to see that it runs
	$(BIN)/mlx run experiment=smoke $(ARGS)

##@ Benchmarks

bench: $(PEERS)/.ready ## speed and memory compared with the peers, in their own environment (.venv-bench)
	$(PEERS)/bin/python scripts/bench_peers.py $(ARGS)

bench-scaling: $(READY) ## seconds and memory over tasks, way, shot, inner steps, width, image size and threads
	$(BIN)/python scripts/bench_scaling.py $(ARGS)

check-gpu: $(READY) ## check that everything runs on a GPU with the right gradients; measure speed (8 minutes)
	$(BIN)/python scripts/check_gpu.py $(ARGS)

##@ Development

test: $(READY) ## the quick tests, which are most of them
	$(BIN)/pytest $(PARALLEL) $(ARGS)

test-medium: $(READY) ## the tests of half a second and more, which CI runs, too
	$(BIN)/pytest $(PARALLEL) -m 'medium and not slow' $(ARGS)

test-all: $(READY) ## all tests, with the slow ones
	$(BIN)/pytest $(PARALLEL) -m 'not slurm and not browser' $(ARGS)

test-slurm: $(READY) ## a sweep on SLURM, from Debian's packages, unpacked for the test (needs root and apt-get)
	$(BIN)/pytest -m slurm tests/faults/test_slurm.py $(ARGS)

test-browser: $(READY) ## the page of mlx serve in Debian's chromium, which it installs where it can (root and apt-get)
	scripts/install_browser.sh $(BIN)/python
	$(BIN)/pytest -m browser -rs tests/cli/test_page.py $(ARGS)

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy
	$(BIN)/mypy

format: $(READY) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(READY) ## sdist and wheel into dist/
	$(BIN)/python -m build --no-isolation

clean: ## remove caches and build products; .venv and runs/ stay
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache
	find metalearn_cli tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): | pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'error: $(PYTHON) is not Python 3.10 or newer; name one that is: make setup PYTHON=python3.11' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(PEERS)/.ready: | scripts/bench_env.sh constraints.txt
	scripts/bench_env.sh $(PEERS) $(PYTHON)
	@touch $@
