#!/usr/bin/env bash
# The whole way once, each step with its time: demo.sh, and demo.sh down.
# CLUSTER=existing uses the cluster of your kubeconfig.
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/lib.sh"
existing=; [[ ${CLUSTER:-} != existing ]] || existing=yes
started=$(now_ms)
steps=0

# step TITLE COMMAND...: what the reader sees happen, and how long it took.
step() {
  local title=$1 begun
  shift
  steps=$((steps + 1))
  begun=$(now_ms)
  printf '\n%2d. %s\n' "$steps" "$title"
  "$@" || die "step $steps failed: $title" 'fix what the lines above say and run make demo again: done steps are quick'
  printf '    done in %s\n' "$(seconds_since "$begun")"
}

# show COMMAND...: prints the command as one would type it, then runs it.
show() {
  printf '    $ %s\n' "$*"
  "$@" 2>&1 | sed 's/^/      /'
}

if [[ ${1:-} == down ]]; then
  if [[ $existing ]]; then "$here/operator.sh" uninstall; else "$here/cluster.sh" down; fi
  exit
fi

step 'What is missing is installed' "$here/setup.sh"
step 'Kubernetes and Helm, built from Go modules (8 minutes the first time)' "$here/tools/build.sh"
step 'A second software token, kryoptic (3 minutes the first time)' "$here/kryoptic/build.sh"
step 'The operator (5 minutes the first time)' "$here/build.sh"
if [[ ! $existing ]]; then
  step 'A Kubernetes cluster of one node' "$here/cluster.sh" up
  # shellcheck source=/dev/null
  source "$root/target/cluster/env"
fi
PATH=$(tool_dir kubernetes):$(tool_dir helm):$PATH
step 'Image, tokens, chart and the HSM partition' "$here/operator.sh" install
step 'The partition, as Kubernetes shows it' show kubectl get hsmpartitions -o wide

say ''
say "All of it took $(seconds_since "$started")."
