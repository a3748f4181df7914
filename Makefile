# Every target sets up what it needs on a fresh machine first: the virtual environment, its packages and, as
# root on Debian, system packages.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
export DAGSTER_HOME ?= $(CURDIR)/.dagster
export PYTHONUNBUFFERED := 1

.PHONY: help setup demo dev test test-slow kill-test fetch-pictures lint format bench bench-ingest bench-curation bench-verification bench-training \
	bench-search bench-backfill bench-automation bench-instance bench-roots bench-serving bench-serve-hostile bench-openimages bench-bounds audit constraints image clean

help: ## show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(VENV)/.installed: pyproject.toml infra/install.sh
	infra/install.sh $(VENV)

setup: $(VENV)/.installed $(DAGSTER_HOME)/dagster.yaml ## install everything into .venv

$(DAGSTER_HOME)/dagster.yaml: infra/laptop/dagster.yaml
	mkdir -p $(DAGSTER_HOME)
	cp $< $@

demo: setup ## materialise the whole lineage of the embedded sample, and print its scores
	$(BIN)/glr demo

dev: setup ## open the Dagster UI on http://127.0.0.1:3000
	$(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p 3000

lint: setup ## ruff, types, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint ## lint, then every test that is not slow
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: setup ## the slow tests: real training, kills at random moments, the photographs beside the checkout
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

kill-test: setup ## run's process, code server and daemon killed in turn, in a backfill of 40 shards and in a job
	OMP_NUM_THREADS=1 $(BIN)/pytest -s -m slow glr_assets_tests/automation/test_kills.py

fetch-pictures: ## the test pictures of imaging projects, from Debian's source packages, for the slow tests of codecs
	infra/fetch_pictures.sh .pictures

format: setup ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## quality on the photographs of PHOTOS over three seeds, beside controls
	$(BIN)/python -m glr_assets_tests.benchmarks.quality

bench-ingest: setup ## the ingest of shards beside the ways of others, a shard of 1 GB, the catalog, reads by id
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[bench]"
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! ldconfig -p | grep libvips.so.42 >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends libvips42; \
	fi
	$(BIN)/python -m glr_assets_tests.benchmarks.ingest
	$(BIN)/python -m glr_assets_tests.benchmarks.pictures
	$(BIN)/python -m glr_assets_tests.benchmarks.shard
	$(BIN)/python -m glr_assets_tests.benchmarks.catalog
	$(BIN)/python -m glr_assets_tests.benchmarks.random_access

bench-curation: setup ## tables, plans, near-duplicates, choices and the ledger at the full size of GLDv2, beside others' ways
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[bench]"
# Its search of hashes needs nothing of what its other methods want, torchvision among it.
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps "imagededup>=0.3.3,<0.4"
	$(BIN)/python -m glr_assets_tests.benchmarks.tables
	$(BIN)/python -m glr_assets_tests.benchmarks.dedupe
	$(BIN)/python -m glr_assets_tests.benchmarks.ledger
	$(BIN)/python -m glr_assets_tests.benchmarks.exports

bench-verification: setup ## geometric verification: a pair, pairs tried of all, planted noise, what GLDv2 costs; extractors
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[bench]"
	$(BIN)/python -m glr_assets_tests.benchmarks.features
	$(BIN)/python -m glr_assets_tests.benchmarks.verification
	$(BIN)/python -m glr_assets_tests.benchmarks.false_images

bench-training: setup ## loader and networks beside decoding alone; a warm start beside none on the photographs, three seeds
	$(BIN)/python -m glr_assets_tests.benchmarks.loader
	$(BIN)/python -m glr_assets_tests.benchmarks.training --part speed
	$(BIN)/python -m glr_assets_tests.benchmarks.training --part warm-start
	$(BIN)/python -m glr_assets_tests.benchmarks.groups

bench-search: setup ## indexes of 200,000 vectors: recall, latency and memory beside Flat; memory over the whole test set
	$(BIN)/python -m glr_assets_tests.benchmarks.search

bench-backfill: setup ## 500 tiny shards by the daemon alone: Dagster's own seconds a shard, the UI meanwhile, 5,000 partitions
	$(BIN)/python -m glr_assets_tests.benchmarks.backfill

bench-instance: setup ## bytes, events and CPU seconds a shard in Dagster's instance, beside three events a shard
	$(BIN)/python -m glr_assets_tests.benchmarks.instance

bench-roots: setup ## ticks of observe_roots over 500 and 5,000 simulated shards, beside the listing of the shards alone
	$(BIN)/python -m glr_assets_tests.benchmarks.roots

bench-automation: setup ## ticks of the automation sensor at 500 and 5,000 shards; Dagster's own seconds a shard of a backfill of 500
	$(BIN)/python -m glr_assets_tests.benchmarks.automation

bench-serving: setup ## the recognition service under load: answers a second, p50 and p99 by clients
	$(BIN)/python -m glr_assets_tests.benchmarks.serving

bench-serve-hostile: setup ## the recognition service under hostile uploads and 600 slow clients: memory, other clients' waits
	$(BIN)/python -m glr_assets_tests.benchmarks.hostile_uploads

bench-openimages: setup ## three categories of 14.6 million boxes; crops a second beside the earlier system
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[bench]"
	$(BIN)/python -m glr_assets_tests.benchmarks.openimages

bench-bounds: setup ## memory, requests and threads that are bounded by construction, beside the commit before they were
	$(BIN)/python -m glr_assets_tests.benchmarks.bounds

audit: setup ## known vulnerabilities in what is installed in images; GLR_AUDIT=required where the database must be reached
	$(BIN)/python infra/audit.py

constraints: setup ## pin what images install to the versions that are installed here
	$(BIN)/python infra/constraints.py

image: ## build the container image; TORCH_INDEX is a package index with the wanted build of torch
	docker build -f infra/docker/Dockerfile -t glr-assets:$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
		--build-arg TORCH_INDEX=$(TORCH_INDEX) .

clean: ## remove the environment, the demo's store and its instance
	rm -rf $(VENV) .dagster data
