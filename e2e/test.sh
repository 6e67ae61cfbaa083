#!/usr/bin/env bash
# Every test, from unit to end to end. The last line is "N passed, N failed".
# KEEP_CLUSTER=1 leaves the cluster up for a look.
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/lib.sh"
cd "$root"
export CLUSTER_NAME=test
output=$logs/tests.log
broken=0
: >"$output"

finish() {
  local status=$? passed failed
  trap - EXIT INT TERM
  [[ -n ${KEEP_CLUSTER:-} ]] || "$here/cluster.sh" down || broken=$((broken + 1))
  passed=$(sum passed)
  failed=$(($(sum failed) + broken))
  # A script that ended early did not run everything.
  ((status == 0 || failed > 0)) || failed=1
  say ''
  printf '%d passed, %d failed\n' "$passed" "$failed"
  ((passed > 0 && failed == 0)) || exit 1
  exit 0
}
sum() { sed -n "s/^test result: .* \([0-9][0-9]*\) $1;.*/\1/p" "$output" | awk '{ n += $1 } END { print n + 0 }'; }

# tests COMMAND...: shows and counts. A test binary that crashes prints no result.
tests() {
  local before after status=0
  before=$(sum failed)
  "$@" 2>&1 | tee -a "$output" || status=$?
  after=$(sum failed)
  ((status == 0 || after > before)) || {
    say "failed without a result: $*"
    broken=$((broken + 1))
  }
}

# Test targets of the crate, except those that need a cluster.
test_targets() {
  cargo metadata --no-deps --format-version 1 |
    jq -r '.packages[].targets[] | select(.kind == ["test"]) | .name' | grep -vxE 'e2e|chaos' | sed 's/^/--test=/' || true
}

trap finish EXIT

"$here/setup.sh"
"$here/tools/build.sh"
HSM_TEST_KRYOPTIC=$("$here/kryoptic/build.sh")
HSM_TEST_OPENAPI=$("$here/openapi/build.sh")
export HSM_TEST_KRYOPTIC HSM_TEST_OPENAPI HSM_TEST_SOFTHSM=/usr/lib/softhsm/libsofthsm2.so
run 'build tests' 'cargo test --no-run shows all of it' cargo test --locked --no-run

mapfile -t targets < <(test_targets)
tests cargo test --locked --no-fail-fast --lib --bins "${targets[@]}"
tests cargo test --locked --no-fail-fast --doc

"$here/build.sh"
"$here/cluster.sh" down
start_operator
binary=$(executable test e2e)
chaos=$(executable test chaos)
[[ -x $binary && -x $chaos ]] || die 'no end-to-end test binaries' 'cargo test --no-run --test e2e --test chaos'
KUBECTL="$IN_CLUSTER kubectl" IMAGE=localhost/hsm-operator:dev HSM_OPERATOR=$root/target/release/hsm-operator PULL_POLICY=Never \
  tests "$root/tests/policies/run.sh"
# They wait for the cluster more than they compute: more of them at once than there are cores.
# shellcheck disable=SC2086 # IN_CLUSTER is a prefix of several words
CARGO_MANIFEST_DIR=$root RUST_TEST_THREADS=4 tests $IN_CLUSTER "$binary"
# After the others: under its load, their times would mean nothing.
# shellcheck disable=SC2086
CARGO_MANIFEST_DIR=$root tests $IN_CLUSTER "$chaos" short
# What leaves nothing of the cluster comes last.
# shellcheck disable=SC2086
CARGO_MANIFEST_DIR=$root tests $IN_CLUSTER "$binary" --ignored
