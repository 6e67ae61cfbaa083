#!/usr/bin/env bash
# Measures the installed operator in a cluster of its own: a table, and target/bench/results.json.
# KEEP_CLUSTER=1 leaves the cluster up for a look.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
own_cluster bench
build_all
run 'build benches' 'cargo bench --no-run shows all of it' cargo bench --locked --no-run
boundary=$(executable bench boundary)
throughput=$(executable bench throughput)
say '  measuring the token-host, some ten minutes; leave the machine alone meanwhile'
"$boundary"
start_operator
say '  measuring the gateway, some twenty minutes; leave the machine alone meanwhile'
# shellcheck disable=SC2086 # IN_CLUSTER is a prefix of several words
$IN_CLUSTER "$throughput"
jq -s add "$root"/target/bench/{boundary,throughput}.json >"$root/target/bench/results.json"
