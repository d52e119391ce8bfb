# The README's commands. Each first builds .venv when it is missing, half made, or made from another requirements.lock.
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)

VENV := .venv
BIN := $(VENV)/bin
# Stamps that carry a checksum: a changed lock makes a new environment, a changed pyproject.toml installs lavish again.
checksum = $(shell $(PYTHON) -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest()[:16])' $(1))
PACKAGES := $(VENV)/packages-$(call checksum,requirements.lock)
SLURM := $(abspath $(VENV))/slurm-$(call checksum,profiles/slurm/requirements.txt)
READY := $(VENV)/lavish-$(call checksum,pyproject.toml)

# Tests and tools share the machine by processes, not by threads.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help environment table smoke test test-faults test-fuzz test-cluster check docs reference format schemas lock

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\): .*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

environment: $(READY)  ## build .venv from requirements.lock

table: $(READY)  ## the main table and its figure with the embedded default
	$(BIN)/snakemake --cores $(CORES) results/table_ablation.md results/figures/accuracy_against_cost.svg
	@echo && cat results/table_ablation.md

smoke: $(READY)  ## every table and figure in minutes, in .smoke/: shows that everything works
	@mkdir -p .smoke && ln -sfn ../config .smoke/config
	$(BIN)/snakemake --cores $(CORES) --directory .smoke --configfile config/smoke.yaml
	@echo && ls .smoke/results/table_*.md .smoke/results/figures/*.svg

test: $(READY)  ## all tests
	$(BIN)/python -m pytest

# Workflows that are killed, run out of disk and so on, at random: a round draws everything from its number, from SEED on.
ROUNDS ?= 200
SEED ?= 0
test-faults: $(READY)  ## ROUNDS rounds of a small workflow, with a fault in each
	ROUNDS=$(ROUNDS) SEED=$(SEED) $(BIN)/python -m pytest tests/faults

# Readers of files get mutated ones: the same SEED and EXAMPLES give the same files.
EXAMPLES ?= 10000
test-fuzz: $(READY)  ## EXAMPLES damaged files for each reader of files from outside
	EXAMPLES=$(EXAMPLES) SEED=$(SEED) $(BIN)/python -m pytest tests/fuzz

test-cluster: $(READY) $(SLURM)  ## a table on a Slurm cluster, with jobs and a node that die; root starts one if necessary
	PYTHONPATH=$(SLURM) $(BIN)/python -m pytest --numprocesses=0 -s tests/cluster

check: $(READY)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/mypy

docs: $(READY)  ## the documentation site in .docs/site/; any warning or broken link is an error
	$(BIN)/python docs/site/stage.py .docs/pages
	PYTHONPATH=docs/site $(BIN)/zensical build --strict
	@echo "Open .docs/site/index.html; to search: python3 -m http.server --directory .docs/site"

reference: $(READY)  ## copy the main table and its figure to results/reference/, with where they came from
	$(BIN)/python benchmarks/reference.py ablation

format: $(READY)  ## format all code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow

schemas: $(READY)  ## write workflow/schemas/ anew from the classes of lavish/config/schema.py
	$(BIN)/python -m lavish.planning.json_schemas

lock: $(READY)  ## pin what pyproject.toml asks for; UPGRADE=--upgrade takes the newest versions
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra docs --python-version 3.11 --no-annotate --quiet \
	    --custom-compile-command 'make lock' --output-file requirements.lock $(UPGRADE)

# uv takes a tenth of the time; pip knows of mirrors and proxies that only it was told of. Bytecode is made here, as pip
# does, because every step of a table would else compile a thousand modules where Python may not write any.
$(PACKAGES):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is $$($(PYTHON) --version), lavish needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Building $(VENV) from requirements.lock (some 5 GB; takes minutes)"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps $$(grep '^uv==' requirements.lock)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode --requirement requirements.lock || \
	    $(BIN)/python -m pip install --quiet --no-deps --requirement requirements.lock
	touch $@

$(SLURM): | $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --target $@ --requirement profiles/slurm/requirements.txt

$(READY): $(PACKAGES)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	rm -f $(VENV)/lavish-*
	touch $@
