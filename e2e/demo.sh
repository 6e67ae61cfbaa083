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
  # A last line without an end, such as an answer of the API, gets one.
  "$@" 2>&1 | awk '{ print "      " $0 }'
}

# quietly COMMAND...: progress is said on standard error; a path on standard output is for scripts.
quietly() { "$@" >/dev/null; }

if [[ ${1:-} == down ]]; then
  if [[ $existing ]]; then "$here/operator.sh" uninstall; else "$here/cluster.sh" down; fi
  exit
fi

step 'What is missing is installed' "$here/setup.sh"
step 'Kubernetes and Helm, built from Go modules (8 minutes the first time)' "$here/tools/build.sh"
step 'A second software token, kryoptic (3 minutes the first time)' quietly "$here/kryoptic/build.sh"
step 'The operator (5 minutes the first time)' "$here/build.sh"
if [[ ! $existing ]]; then
  step 'A Kubernetes cluster of one node' "$here/cluster.sh" up
  # shellcheck source=/dev/null
  source "$root/target/cluster/env"
fi
PATH=$(tool_dir kubernetes):$(tool_dir helm):$PATH
step 'Image, tokens, chart and the HSM partition' "$here/operator.sh" install
step 'The partition, as Kubernetes shows it' show kubectl get hsmpartitions

# shellcheck source=demo/steps.sh
source "$here/demo/steps.sh"
step 'Two key manifests are applied: kubectl apply, nothing else' apply_keys
step 'The keys are on the HSM' show kubectl get hsmkeys -n hsm-demo
step 'The public half and the attestation, from the Secret, checked with openssl' check_attestation
step 'A SigningRequest, and openssl verifies its signature' check_request
step 'A Job without any credential signs at http://localhost:8081' check_job

say ''
say "All of it took $(seconds_since "$started"). The cluster is up; what to try next:"
[[ $existing ]] || say '  . target/cluster/env                                  kubectl, helm and the gateway address of this cluster'
say '  kubectl get hsmpartition demo -o yaml                 what the token can, and the attestation root to pin' \
  $'\n''  kubectl explain hsmkey.spec                           every field, explained' \
  $'\n''  kubectl get events -n hsm-demo                        what happened' \
  $'\n''  kubectl apply -n hsm-demo -f config/samples/key-ec.yaml' \
  $'\n''  make demo-down                                        removes every trace'
