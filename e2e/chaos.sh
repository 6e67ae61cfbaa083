#!/usr/bin/env bash
# Plays faults on the installed operator in a cluster of its own, under load, and prints a line for each.
#
#   chaos.sh [all]   every fault on both tokens; FAULTS=segv,hang chooses by parts of names, TOKEN=softhsm one token
#   chaos.sh soak    MINUTES (60) of random faults and kills; SEED repeats a run
#
# KEEP_CLUSTER=1 leaves the cluster up for a look.
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/lib.sh"
cd "$root"
export CLUSTER_NAME=chaos
finish() { [[ -n ${KEEP_CLUSTER:-} ]] || "$here/cluster.sh" down; }
trap finish EXIT

"$here/setup.sh"
"$here/tools/build.sh"
"$here/kryoptic/build.sh" >/dev/null
"$here/build.sh"
run 'build fault module' 'cargo build --example fault_module shows all of it' \
  cargo build --locked --example fault_module
run 'build chaos' 'cargo test --no-run --test chaos shows all of it' cargo test --locked --no-run --test chaos
binary=$(test_binary chaos)
"$here/cluster.sh" up
"$here/operator.sh" install
# shellcheck source=/dev/null
source "$root/target/cluster-chaos/env"
say '  playing faults; leave the machine alone meanwhile'
# shellcheck disable=SC2086 # IN_CLUSTER is a prefix of several words
CARGO_MANIFEST_DIR=$root $IN_CLUSTER "$binary" "${1:-all}"
