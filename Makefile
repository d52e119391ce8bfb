# The README's commands. Each first builds .venv when it is missing, half made, or made from another requirements.lock.
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)

VENV := .venv
BIN := $(VENV)/bin
# Stamps that carry a checksum: a changed lock makes a new environment, a changed pyproject.toml installs lavish again.
checksum = $(shell $(PYTHON) -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest()[:16])' $(1) 2>/dev/null)
PACKAGES := $(VENV)/packages-$(call checksum,requirements.lock)
SLURM := $(abspath $(VENV))/slurm-$(call checksum,profiles/slurm/requirements.txt)
READY := $(VENV)/lavish-$(call checksum,pyproject.toml)
LIGHT := .venv-light/packages-$(call checksum,requirements-light.lock)
# `TORCH=cpu` leaves out the CUDA libraries, for an index with CPU builds of torch: docs/containers.md.
TORCH ?= cuda

# Tests and tools share the machine by processes, not by threads.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help environment demo table smoke report test test-faults test-fuzz test-cluster check docs light sbom submissions \
    reference format schemas lock

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\): .*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

environment: $(READY)  ## build .venv from requirements.lock

demo: $(READY)  ## two rows with one seed in under two minutes, in .demo/
	@mkdir -p .demo && ln -sfn ../config .demo/config
	$(BIN)/snakemake --cores $(CORES) --quiet rules host --directory .demo --configfile config/demo.yaml
	@echo && cat .demo/results/table_demo.md && echo && echo "The page: $(CURDIR)/.demo/results/site/index.html"

table: $(READY)  ## the main table and its figure with the embedded default
	$(BIN)/snakemake --cores $(CORES) results/table_ablation.md results/figures/accuracy_against_cost.svg
	@echo && cat results/table_ablation.md

smoke: $(READY)  ## every table and figure in minutes, in .smoke/: shows that everything works
	@mkdir -p .smoke && ln -sfn ../config .smoke/config
	$(BIN)/snakemake --cores $(CORES) --directory .smoke --configfile config/smoke.yaml
	@echo && ls .smoke/results/table_*.md .smoke/results/figures/*.svg

report: smoke  ## the smoke tables with all records in one page, .smoke/report.html
	$(BIN)/snakemake --directory .smoke --configfile config/smoke.yaml --report .smoke/report.html

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

light: $(LIGHT)  ## .venv-light: reads and plots results, without torch (0.7 GB)
	.venv-light/bin/lavish compare results/reference results/reference > /dev/null
	@echo "Without torch: .venv-light/bin/lavish show, compare, merge, table, figure, power"

sbom: $(READY)  ## what .venv contains, with licences, as CycloneDX: sbom.cdx.json
	$(BIN)/uvx --from cyclonedx-bom==7.5.0 cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --output-file sbom.cdx.json $(BIN)/python

# BASE is the commit that a change starts from: of what was published there, nothing may change.
submissions: $(READY)  ## check the results in submissions/
	@changed=$$(git diff --name-only --diff-filter=MDRT $(or $(BASE),HEAD) -- submissions/); [ -z "$$changed" ] || \
	    { echo "make: published results are never edited, make a new submission instead: $$changed" >&2; exit 1; }
	@set -e; for folder in $(patsubst %/,%,$(wildcard submissions/*/)); do \
	    published=; ! git cat-file -e "$(or $(BASE),HEAD):$$folder" 2>/dev/null || published=--published; \
	    $(BIN)/lavish submit-check $$published "$$folder"; done; echo "submissions checked"

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
	$(BIN)/uv pip compile --group pyproject.toml:light --constraint requirements.lock --python-version 3.11 --no-annotate \
	    --quiet --custom-compile-command 'make lock' --output-file requirements-light.lock $(UPGRADE)

$(PACKAGES):
	@sh workflow/envs/build.sh "$(PYTHON)" $(VENV) requirements.lock 6 $(TORCH)
	@touch $@

$(LIGHT): pyproject.toml
	@sh workflow/envs/build.sh "$(PYTHON)" .venv-light requirements-light.lock 1
	.venv-light/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(SLURM): | $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --target $@ --requirement profiles/slurm/requirements.txt

$(READY): $(PACKAGES)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	rm -f $(VENV)/lavish-*
	touch $@
