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
# bench NAME: the executable of a bench.
bench() {
  cargo bench --locked --no-run --bench "$1" --message-format=json 2>/dev/null | jq -r --arg name "$1" \
    'select(.reason == "compiler-artifact" and .target.name == $name and .executable) | .executable'
}
run 'build benches' 'cargo bench --no-run shows all of it' cargo bench --locked --no-run
boundary=$(bench boundary)
throughput=$(bench throughput)
say '  measuring the token-host, some ten minutes; leave the machine alone meanwhile'
"$boundary"
"$here/cluster.sh" up
"$here/operator.sh" install
# shellcheck source=/dev/null
source "$root/target/cluster-bench/env"
say '  measuring the gateway, some twenty minutes; leave the machine alone meanwhile'
# shellcheck disable=SC2086 # IN_CLUSTER is a prefix of several words
$IN_CLUSTER "$throughput"
jq -s add "$root"/target/bench/{boundary,throughput}.json >"$root/target/bench/results.json"
