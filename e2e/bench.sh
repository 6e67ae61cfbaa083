#!/usr/bin/env bash
# Measures the installed operator in a cluster of its own: a table, and target/bench/results.json.
# KEEP_CLUSTER=1 leaves the cluster up for a look.
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/lib.sh"
cd "$root"
export CLUSTER_NAME=bench
finish() { [[ -n ${KEEP_CLUSTER:-} ]] || "$here/cluster.sh" down; }
trap finish EXIT

"$here/setup.sh"
"$here/tools/build.sh"
"$here/kryoptic/build.sh" >/dev/null
"$here/build.sh"
run 'build bench' 'cargo bench --no-run shows all of it' cargo bench --locked --no-run --bench throughput
"$here/cluster.sh" up
"$here/operator.sh" install
# shellcheck source=/dev/null
source "$root/target/cluster-bench/env"
binary=$(cargo bench --locked --no-run --bench throughput --message-format=json 2>/dev/null |
  jq -r 'select(.reason == "compiler-artifact" and .target.name == "throughput" and .executable) | .executable')
say '  measuring, some four minutes; leave the machine alone meanwhile'
# shellcheck disable=SC2086 # IN_CLUSTER is a prefix of several words
$IN_CLUSTER "$binary"
