# One entry for people and CI. `make help` lists the targets.
#
# Everything builds in one profile with one set of flags, so that clippy, tests, docs and the
# product share each compiled dependency (llama.cpp above all).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO := cargo
export CARGO_INCREMENTAL := 0
PYTHON := .tools/venv/bin/python
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)

.PHONY: help build demo test ci lint fmt docs deny sim faults fuzz bench bench-peers models tools python-tests test-vllm test-gpu reference

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

tools: ## find or fetch what the build needs
	@scripts/build_tools.sh

build: tools ## build target/release/dynamo
	$(CARGO) build --release --package dynamo-run

models: ## fetch the small model and the tokenizers that tests and the demo use
	@scripts/fetch_models.sh

demo: build ## serve a real model and ask it a question
	@scripts/fetch_models.sh model
	@scripts/demo.sh

test: tools models ## all tests
ifneq ($(NEXTEST),)
	$(CARGO) nextest run --release --workspace --lib --bins --tests
else
	$(CARGO) test --release --workspace --lib --bins --tests
endif
	@$(MAKE) --no-print-directory python-tests

python-tests: tools ## tests that drive the binary with the official Python clients
	@scripts/python_tests.sh
	@scripts/wheel_tests.sh

test-vllm: models ## the vLLM component with the real engine on the CPU; 6 GB are fetched once
	@scripts/vllm_tests.sh

test-gpu: ## an engine's component on a machine with a GPU: ENGINE=vllm|sglang|trtllm MODEL=...
	@scripts/gpu_tests.sh "$(ENGINE)" "$(MODEL)"

lint: tools ## formatting and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

fmt: ## format the code
	$(CARGO) fmt --all

docs: tools ## API documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps

deny: ## licences, bans and sources of dependencies, where cargo-deny is installed
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check licenses bans sources; \
	else echo "cargo-deny is not installed (cargo install --locked cargo-deny): skipped; tests check bans and sources"; fi

SEEDS ?= 300
sim: build ## deterministic simulation: SEEDS=N runs, from SEED on
	target/release/dynamo simulate --seed $(or $(SEED),0) --seeds $(SEEDS)

fuzz: tools ## search for bytes that some part does not bear: SECONDS=N of CPU time for each target
	@scripts/fuzz.sh $(or $(SECONDS),600)

FAULTS ?= --requests 1000 --workers 4 --every 5s
faults: tools models ## kill, freeze, restart and cut off real processes: FAULTS="--scenario workers"
	$(CARGO) build --release --package dynamo-run --package dynamo-fault-tolerance
	target/release/faults $(FAULTS)

reference: build ## write docs/reference from the options' declarations
	target/release/dynamo reference docs/reference

bench: build models ## the figures of docs/benchmarks.md
	@benchmarks/run.sh

bench-peers: build ## the table beside the published system, fetched into .tools/peers
	@scripts/fetch_models.sh tokenizers
	@scripts/peers_install.sh
	@python3 benchmarks/peers.py

ci: ## what CI runs, with the seconds of each stage
	@scripts/ci.sh
