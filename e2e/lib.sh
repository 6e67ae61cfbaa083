# shellcheck shell=bash
# Sourced by every script in e2e/: places, progress and failure messages.
set -euo pipefail
# Files in images and caches must not depend on who makes them.
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What is expensive to make and the same for every checkout lives outside target/.
cache=${HSM_OPERATOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hsm-operator}
logs=$root/target/e2e-logs
mkdir -p "$cache" "$logs"

say() { printf '%s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf '  %s\n' "$@" >&2
  exit 1
}

# Milliseconds since the epoch, without starting a process.
now_ms() { local t=${EPOCHREALTIME/[.,]/}; printf '%s' "${t::-3}"; }
seconds_since() { local ms=$(($(now_ms) - $1)); printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100)); }

# An interrupted script takes its running step along; EXIT traps follow.
step_pid=
stop_step() { [[ -z $step_pid ]] || kill -TERM -- "-$step_pid" 2>/dev/null || true; }
trap 'stop_step; exit 130' INT
trap 'stop_step; exit 143' TERM

# run NAME HINT COMMAND...: output goes to a log; a long step says that it is
# alive; a failed one shows the end of its log and HINT.
run() {
  local name=$1 hint=$2 log started pid next ticker=0 status=0
  shift 2
  log=$logs/${name//[^A-Za-z0-9]/-}.log
  started=$(now_ms)
  set -m # a process group of its own, to be ended as one
  "$@" >"$log" 2>&1 </dev/null &
  set +m
  pid=$!
  step_pid=$pid
  next=$((started + 15000))
  while kill -0 "$pid" 2>/dev/null; do
    # Short at first so that a warm step costs nothing, then rarely.
    if ((ticker < 20)); then sleep 0.05; else sleep 0.5; fi
    ticker=$((ticker + 1))
    if (($(now_ms) > next)); then
      next=$(($(now_ms) + 15000))
      say "  … $name: $(seconds_since "$started")  $(tail -n 1 "$log" | tr -d '\r' | cut -c1-80)"
    fi
  done
  wait "$pid" || status=$?
  step_pid=
  if ((status != 0)); then
    say "failed: $name (exit $status after $(seconds_since "$started")); the end of $log:"
    tail -n 30 "$log" | sed 's/^/    /' >&2
    say "  what to do: $hint"
    return "$status"
  fi
  say "  $name: $(seconds_since "$started")"
}

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds.
wait_for() {
  local limit=$1 what=$2 end
  shift 2
  end=$(($(now_ms) + limit * 1000))
  until "$@" >/dev/null 2>&1; do
    (($(now_ms) < end)) || { say "timed out after $limit s: $what"; return 1; }
    sleep 0.1
  done
}

# hash_of FILE... : a short name for the content of files and of $hash_extra.
hash_of() { { cat -- "$@"; printf '%s' "${hash_extra:-}"; } | sha256sum | cut -c1-16; }

# Where a tool of e2e/tools is, built or not.
tool_dir() {
  local dir=$root/e2e/tools/$1
  hash_extra=$(go_version) hash_of "$dir/go.mod" "$dir/go.sum" | sed "s|^|$cache/bin/$1-|"
}
go_version() {
  go_version_cache=${go_version_cache:-$(cd / && GOFLAGS='' go env GOVERSION GOARCH | paste -sd-)}
  printf '%s' "$go_version_cache"
}

# Where the kryoptic library is, built or not.
kryoptic_library() {
  printf '%s/kryoptic/%s/libkryoptic.so' "$cache" \
    "$(hash_of "$root"/e2e/kryoptic/{Cargo.toml,Cargo.lock,src/lib.rs,src/bin/openssl-verify.rs})"
}

# executable test|bench NAME: of a target, built if need be.
executable() {
  cargo "$1" --locked --no-run "--$1" "$2" --message-format=json 2>/dev/null | jq -r --arg name "$2" \
    'select(.reason == "compiler-artifact" and .target.name == $name and .executable) | .executable'
}

# What a cluster with the operator takes; built where it is not there yet.
build_all() {
  "$root/e2e/setup.sh"
  "$root/e2e/tools/build.sh"
  "$root/e2e/kryoptic/build.sh" >/dev/null
  "$root/e2e/build.sh"
}

# own_cluster NAME: what this script starts is a cluster of its own, which ends with it unless KEEP_CLUSTER is set.
own_cluster() {
  export CLUSTER_NAME=$1
  trap '[[ -n ${KEEP_CLUSTER:-} ]] || "$root/e2e/cluster.sh" down' EXIT
}

# That cluster with the operator in it, and what its env file says.
start_operator() {
  "$root/e2e/cluster.sh" up
  "$root/e2e/operator.sh" install
  # shellcheck source=/dev/null
  source "$root/target/cluster-$CLUSTER_NAME/env"
}
