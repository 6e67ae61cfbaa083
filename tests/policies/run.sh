#!/usr/bin/env bash
# The admission policies on a real API server (1.37). Needs no node.
#
#   KUBECTL  kubectl with cluster administrator's rights; may be several words
#   HSM_OPERATOR  the binary
#   PULL_POLICY   what the chart was installed with
#
# The policies and the custom resource definitions must be installed; IMAGE is the operator's image there.
set -euo pipefail
read -ra kubectl <<<"${KUBECTL:-kubectl}"
operator=${HSM_OPERATOR:-target/debug/hsm-operator}
image=${IMAGE:?IMAGE is the image that the chart was installed with}
ns=policies-$$
passed=0 failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"; "${kubectl[@]}" delete namespace "$ns" "$ns-all" --wait=false >/dev/null 2>&1 || true' EXIT

k() { "${kubectl[@]}" -n "$ns" "$@"; }
ok() { echo "ok    $1"; passed=$((passed + 1)); }
bad() { echo "FAIL  $1"; sed 's/^/      /' "$work/out" 2>/dev/null || true; failed=$((failed + 1)); }
check() { if "${@:2}" >"$work/out" 2>&1; then ok "$1"; else bad "$1"; fi; }
refused() { # name, text in the message, command…
  if "${@:3}" >"$work/out" 2>&1; then bad "$1: it was allowed"
  elif grep -qF -- "$2" "$work/out"; then ok "$1"
  else bad "$1: another message"; fi
}
admitted() { "${kubectl[@]}" -n "$1" create --dry-run=server -o "jsonpath=${2:-{.spec\}}" -f "${3:--}"; }

pod() { # name, label or "", extra line of the spec
  printf 'apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n' "$1"
  [[ -z $2 ]] || printf '  labels:\n    hsm-operator.io/inject: "%s"\n' "$2"
  printf 'spec:\n  automountServiceAccountToken: %s\n%s  containers:\n    - name: app\n      image: app:1\n' "${automount:-false}" "${3:+  $3
}"
}

for namespace in "$ns" "$ns-all"; do
  "${kubectl[@]}" create namespace "$namespace" >/dev/null
  "${kubectl[@]}" -n "$namespace" create serviceaccount default >/dev/null 2>&1 || true
done
"${kubectl[@]}" label namespace "$ns-all" hsm-operator.io/inject=true >/dev/null

same() { # manifest: the policy's result is that of `kubectl hsm inject`
  "$operator" kubectl inject --image "$image" --image-pull-policy "${PULL_POLICY:-IfNotPresent}" -f "$1" 2>/dev/null >"$work/injected.yaml"
  admitted "$ns" '{.spec}' "$1" >"$work/by-policy" && admitted "$ns" '{.spec}' "$work/injected.yaml" >"$work/by-function"
  grep -q hsm-operator-sidecar "$work/by-policy" && diff "$work/by-policy" "$work/by-function"
}
pod plain true >"$work/plain.yaml"
pod volumes true 'volumes: [{name: own, emptyDir: {}}]' >"$work/volumes.yaml"
pod inits true 'initContainers: [{name: first, image: "app:1"}]' >"$work/inits.yaml"
for manifest in "$work"/{plain,volumes,inits}.yaml; do
  check "policy and function agree: $(basename "$manifest" .yaml)" same "$manifest"
done

names='{.spec.initContainers[*].name}'
is() { [[ $1 == "$2" ]] || { echo "got '$1', wanted '$2'"; return 1; }; }
check "a pod without the label is untouched" is "$(pod a "" | admitted "$ns" "$names")" ""
check "a pod that says false is untouched" is "$(pod a false | admitted "$ns-all" "$names")" ""
check "a labelled namespace injects into pods that say nothing" \
  is "$(pod a "" | admitted "$ns-all" "$names")" hsm-operator-sidecar
check "a labelled pod in a labelled namespace gets one sidecar" \
  is "$(pod a true | admitted "$ns-all" "$names")" hsm-operator-sidecar
refused "a labelled pod on the host's network is refused with the reason" "uses the host's network" \
  admitted "$ns" '{.spec}' <(pod a true 'hostNetwork: true')
mounts='{.spec.initContainers[0].volumeMounts[*].name}'
check "the pod's token for the API server is not in the sidecar" \
  is "$(automount=true pod a true | admitted "$ns" "$mounts")" "hsm-operator-token hsm-operator-token"
"${kubectl[@]}" label namespace "$ns" pod-security.kubernetes.io/enforce=restricted >/dev/null
pod strict true 'securityContext: {runAsNonRoot: true, runAsUser: 1, seccompProfile: {type: RuntimeDefault}}' >"$work/strict.yaml"
printf '      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n' >>"$work/strict.yaml"
check "restricted pod security accepts the sidecar" admitted "$ns" '{.spec}' "$work/strict.yaml"

request() { # name, requester lines
  printf 'apiVersion: hsm-operator.io/v1alpha1\nkind: SigningRequest\nmetadata:\n  name: %s\nspec:\n' "$1"
  printf '  keyRef:\n    name: mine\n  payload: UGF5bG9hZA==\n  signatureAlgorithm: SHA256_WITH_RSA\n%s' "${2:-}"
}
as() { k --as "system:serviceaccount:$ns:default" "$@"; }
k create role requests --verb create,get,update,patch --resource signingrequests.hsm-operator.io >/dev/null
k create rolebinding requests --role requests --serviceaccount "$ns:default" >/dev/null
request r >"$work/request.yaml"
refused "a SigningRequest without use on its key is refused and says what to grant" \
  "may not use key mine in namespace $ns: grant verb \"use\" on hsmkeys/mine" as create -f "$work/request.yaml"
printf 'apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: use\nrules:\n  - apiGroups: [hsm-operator.io]\n    resources: [hsmkeys]\n    resourceNames: [mine]\n    verbs: [use]\n' | k create -f - >/dev/null
k create rolebinding use --role use --serviceaccount "$ns:default" >/dev/null
requester() { as create --dry-run=server -o 'jsonpath={.spec.requester.username}' -f "$1"; }
for _ in 1 2 3 4 5; do requester "$work/request.yaml" >/dev/null 2>&1 && break; sleep 1; done
check "with use it is accepted and stamped" is "$(requester "$work/request.yaml")" "system:serviceaccount:$ns:default"
request r $'  requester:\n    username: boss\n    uid: x\n' >"$work/forged.yaml"
check "a forged requester is overwritten" is "$(requester "$work/forged.yaml")" "system:serviceaccount:$ns:default"
check "it can be created" as create -f "$work/request.yaml"
# The definition of the resource refuses any change; the policy would if it did not.
refused "its requester cannot be changed" "change" \
  as patch signingrequest r --type merge -p '{"spec":{"requester":{"username":"boss"}}}'

# `use` is on the key `mine` alone.
derived() { # name of the object, key that it is derived from
  printf 'apiVersion: hsm-operator.io/v1alpha1\nkind: HsmKey\nmetadata:\n  name: %s\nspec:\n' "$1"
  printf '  partitionRef:\n    name: p\n  algorithm: EC\n  curveOid: 1.3.132.0.10\n  label: %s/0\n' "$2"
  printf '  derivedFrom:\n    key: %s\n    path: "0"\n' "$2"
}
k create role makers --verb create,get --resource hsmkeys.hsm-operator.io >/dev/null
k create rolebinding makers --role makers --serviceaccount "$ns:default" >/dev/null
derived d1 other >"$work/other.yaml"
derived d2 mine >"$work/derived.yaml"
for _ in 1 2 3 4 5; do as create --dry-run=server -f "$work/derived.yaml" >/dev/null 2>&1 && break; sleep 1; done
check "who may use a key derives from it" as create --dry-run=server -f "$work/derived.yaml"
refused "and from no other" "may not use key other in namespace $ns" as create --dry-run=server -f "$work/other.yaml"

# In the words of cargo, for whoever counts.
echo "test result: $([[ $failed == 0 ]] && echo ok || echo FAILED). $passed passed; $failed failed; 0 ignored"
[[ $failed == 0 ]]
