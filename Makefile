# What the scripts in e2e/ do, by name. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Steps print their own progress; two at once would mix it up and fight for the cores.
.NOTPARALLEL:
.PHONY: help build demo demo-down test chaos soak fuzz bench cluster-up cluster-down image-load generate fmt clippy doc

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the operator (release)
	@e2e/build.sh

demo: ## the whole way once: cluster, key, attestation, signatures (CLUSTER=existing: your own cluster)
	@e2e/demo.sh

demo-down: ## remove every trace of the demo
	@e2e/demo.sh down

test: ## every test, unit to end to end; the last line says how many passed
	@e2e/test.sh

chaos: ## faults in the PKCS#11 module under load, a line for each (FAULTS=segv,hang TOKEN=softhsm: some of them)
	@FAULTS='$(FAULTS)' TOKEN='$(TOKEN)' e2e/chaos.sh

soak: ## random faults and kills under load (MINUTES=60, SEED=n repeats a run)
	@MINUTES='$(MINUTES)' SEED='$(SEED)' TOKEN='$(TOKEN)' e2e/chaos.sh soak

fuzz: ## the readers of strangers' bytes, random inputs for MINUTES=1 each (TARGET=name: one of them)
	@MINUTES='$(MINUTES)' TARGET='$(TARGET)' SEED='$(SEED)' e2e/fuzz.sh

bench: ## measure, print a table, write target/bench/results.json
	@FIGURES='$(FIGURES)' e2e/bench.sh

cluster-up: ## a cluster with operator and demo partition; then: . target/cluster/env
	@e2e/setup.sh
	@e2e/tools/build.sh
	@e2e/kryoptic/build.sh >/dev/null
	@e2e/build.sh
	@e2e/cluster.sh up
	@e2e/operator.sh install

cluster-down: ## remove that cluster
	@e2e/cluster.sh down

image-load: ## load an OCI image archive into the node: make image-load TAR=file
	@test -n "$(TAR)" || { echo 'usage: make image-load TAR=file' >&2; exit 2; }
	@e2e/cluster.sh load "$(TAR)"

generate: ## write what is generated: CRDs, the chart's copy of them, the kustomize base, docs/token-errors.md
	@cargo run --quiet -- crd --output crds
	@cargo run --quiet -- token-errors --output docs/token-errors.md
	@config/generate.sh

fmt: ## format the Rust code
	@cargo fmt --all

clippy: ## lint the Rust code; warnings are errors
	@cargo clippy --all-targets --all-features -- -D warnings

doc: ## build the API documentation
	@cargo doc --no-deps
