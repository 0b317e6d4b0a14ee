# Commands for developers and new users. `make` without a target lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 3000
# Tests wait for processes that they started for two thirds of their time, so two cores are enough for three workers.
WORKERS ?= 3
# Each test module runs in one worker, in the order of conftest.py: the longest first.
SIDE_BY_SIDE = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
QUICK_TESTS := $(addprefix laion_assets_tests/,shard source sample plan describe deploy \
  $(addprefix automation/,test_definitions.py test_milestones.py) $(addprefix health/,test_findings.py test_history.py) \
  $(addprefix clip/,test_images.py test_html_page.py test_texts.py) $(addprefix terminal/,test_bars.py test_results.py) \
  recall/test_interval.py service/test_request.py $(addprefix test_,$(addsuffix .py,cgroup dagster_internals dataset errors \
  faults progress project resources rooms settings shard_keys snapshot)))
export DAGSTER_HOME ?= $(CURDIR)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

env: .venv/.made ## make .venv from pyproject.toml and constraints.txt (most other targets do this first)

.venv/.made: pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python '>=3.10' .venv && \
	  uv pip install --quiet --python .venv --constraint constraints.txt --build-constraint constraints.txt --editable '.[s3,hdf5,postgres,k8s,dev]'; \
	else \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.11 …")' && \
	  $(PYTHON) -m venv .venv && \
	  PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --editable '.[s3,hdf5,postgres,k8s,dev]'; \
	fi
	@touch .venv/.made

demo: env ## fetch, merge, load and search four sample shards (about two minutes)
	@$(BIN)/laion-assets demo

demo-ui: env ## show the demo in Dagster's UI, at http://127.0.0.1:3000
	@test -f data/demo/dagster/dagster.yaml || { echo "nothing to show yet: make demo first"; exit 1; }
	@env $$(env | sed -n 's/^\(LAION_[A-Z_]*\)=.*/-u \1/p') DAGSTER_HOME=$(CURDIR)/data/demo/dagster LAION_DATASET=sample \
	  LAION_DATA_DIR=$(CURDIR)/data/demo LAION_HNSW_M=16 LAION_HNSW_EF_CONSTRUCTION=64 LAION_RECALL_QUERIES=10 $(BIN)/dagster dev --port $(PORT)

# `dagster dev` prints at each start that it is superseded. It is used here since it works without `dagster-dg-cli`.
dev: env ## start Dagster's UI at http://127.0.0.1:3000 (another port: PORT=3001) with DAGSTER_HOME (default: this folder)
	@PYTHONWARNINGS=ignore:Function $(BIN)/dagster dev --workspace workspace.yaml --port $(PORT)

test: env ## run every test, three at a time (WORKERS=1 for one at a time)
	@PYTHONHASHSEED=0 $(BIN)/python -m pytest $(SIDE_BY_SIDE)

snapshot: env ## write the present definitions to laion_assets_tests/snapshots/definitions.txt, for review
	@ACCEPT=1 $(BIN)/python -m pytest -q laion_assets_tests/test_snapshot.py

check: env ## before each commit: lint, types, and the tests that need no daemon, browser or engine
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint quick

quick: env
	@PYTHONHASHSEED=0 $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) $(QUICK_TESTS)

torture: env ## the long trials (docs/faults.md): 300 killed loads, two loads at once, full disks, corruptions, 5,000 altered files, 5,000 malformed requests
	@for trial in sudden_death adversity corruptions altered malformed large; do \
	  echo "$$trial"; $(BIN)/python -W ignore -m laion_assets_tests.torture.$$trial || exit 1; \
	done
	@for over in "" --server; do $(BIN)/python -W ignore -m laion_assets_tests.torture.two_loaders $$over || exit 1; done

lint: env ## ruff (lint and format) and mypy in strict mode
	@$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy

bench: .venv/.bench ## run all benchmarks: hours (BENCH=name: one of them; BENCH=--quick: all in small sizes)
	@$(BIN)/python -m benchmarks $(BENCH)

.venv/.bench: .venv/.made
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python .venv --constraint constraints.txt --build-constraint constraints.txt --editable '.[s3,hdf5,postgres,k8s,dev,bench]'; \
	else \
	  PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --editable '.[s3,hdf5,postgres,k8s,dev,bench]'; \
	fi
	@touch .venv/.bench

screenshots: env ## take the screenshots of docs/images again (needs Chromium)
	@$(BIN)/python docs/screenshots.py
	@$(BIN)/python docs/page_screenshots.py

lock: ## write constraints.txt again from pyproject.toml (needs uv)
	@sed -n '/^requires = /s/.*"\(.*\)".*/\1/p' pyproject.toml | \
	  uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate --no-emit-index-url \
	  --all-extras --output-file constraints.txt pyproject.toml -

clean: ## remove .venv, caches and the demo; loaded data and Dagster's history are kept
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache data/demo

.PHONY: help env demo demo-ui dev test snapshot check quick torture lint bench screenshots lock clean
