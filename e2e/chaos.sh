#!/usr/bin/env bash
# Plays faults on the installed operator in a cluster of its own, under load, and prints a line for each.
#
#   chaos.sh [all]   every fault on both tokens; FAULTS=segv,hang chooses by parts of names, TOKEN=softhsm one token
#   chaos.sh soak    MINUTES (60) of random faults and kills; SEED repeats a run
#
# KEEP_CLUSTER=1 leaves the cluster up for a look.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
own_cluster chaos
build_all
run 'build fault module' 'cargo build --example fault_module shows all of it' \
  cargo build --locked --example fault_module
run 'build chaos' 'cargo test --no-run --test chaos shows all of it' cargo test --locked --no-run --test chaos
binary=$(executable test chaos)
start_operator
say '  playing faults; leave the machine alone meanwhile'
# shellcheck disable=SC2086 # IN_CLUSTER is a prefix of several words
CARGO_MANIFEST_DIR=$root $IN_CLUSTER "$binary" "${1:-all}"
