#!/usr/bin/env bash
# The operator in a running cluster, with a SoftHSM and a kryoptic token.
#
#   operator.sh tokens      namespace, PIN, volume and tokens only
#   operator.sh install     tokens, images, chart and the demo partition
#   operator.sh uninstall   the chart and everything else of demo and install, except CRDs
#
# CLUSTER_NAME chooses one of ours. With CLUSTER=existing it works on the cluster of your
# kubeconfig; IMAGE, TOOLBOX_IMAGE and STORAGE_CLASS (ReadWriteMany) then apply.
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/lib.sh"
source "$here/cluster/place.sh"
existing=; [[ ${CLUSTER:-} != existing ]] || existing=yes

namespace=hsm-operator
demo_namespace=hsm-demo
image=${IMAGE:-localhost/hsm-operator:dev}
toolbox=${TOOLBOX_IMAGE:-localhost/hsm-operator-toolbox:dev}
images=$root/target/images
if [[ $existing ]]; then
  pull_policy=IfNotPresent
  storage_class=${STORAGE_CLASS:-}
  ca_file=$root/target/existing-gateway-ca.pem
else
  [[ -f $state/env ]] || die "cluster $cluster_name is not running" 'run e2e/cluster.sh up'
  # shellcheck source=/dev/null
  source "$state/env"
  pull_policy=Never
  storage_class=hsm-demo
  ca_file=$GATEWAY_CA
fi
PATH=$(tool_dir kubernetes):$(tool_dir helm):$PATH

load_images() {
  "$here/image/build.sh" toolbox
  "$here/image/build.sh" operator
  [[ $existing ]] ||
    "$here/cluster.sh" load "$images/hsm-operator-toolbox.tar" "$images/hsm-operator.tar"
}

random_pin() { od -An -vtx1 -N8 /dev/urandom | tr -d ' \n'; }

make_namespace() {
  kubectl apply --server-side -f - <<EOF
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
  labels: {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}
EOF
  # Once: a new PIN for tokens that are there would lock everybody out.
  kubectl get secret hsm-demo-pin -n "$namespace" >/dev/null 2>&1 || kubectl create -f - <<EOF
apiVersion: v1
kind: Secret
metadata: {name: hsm-demo-pin, namespace: $namespace}
stringData: {pin: "$(random_pin)", so-pin: "$(random_pin)"}
EOF
}

make_tokens() {
  local job=job/hsm-demo-provision
  make_namespace
  if [[ ! $existing ]]; then
    install -d -m 0770 -o 65532 -g 65532 "$state/volumes/hsm-demo"
    sed "s|@PATH@|$state/volumes/hsm-demo|" "$here/operator/volume.yaml" | kubectl apply --server-side -f -
  fi
  kubectl create configmap hsm-demo-provision -n "$namespace" --dry-run=client -o yaml \
    --from-file "$here/operator/provision.sh" | kubectl apply --server-side -f -
  # A Job cannot be changed.
  kubectl delete -n "$namespace" "$job" --ignore-not-found --wait
  sed -e "s|@TOOLBOX_IMAGE@|$toolbox|" -e "s|@PULL_POLICY@|$pull_policy|" \
    -e "s|@STORAGE_CLASS@|$storage_class|" -e '/storageClassName: ""/d' \
    "$here/operator/provision.yaml" | kubectl apply --server-side -f -
  kubectl wait -n "$namespace" "$job" --for=condition=Complete --timeout=120s || {
    kubectl describe -n "$namespace" "$job" | tail -n 12
    kubectl get events -n "$namespace" --sort-by=.lastTimestamp | tail -n 8
    kubectl logs -n "$namespace" "$job" --tail 20
    return 1
  }
}

install_chart() {
  helm upgrade --install hsm-operator "$root/charts/hsm-operator" -n "$namespace" -f "$here/values.yaml" \
    --set "image.repository=${image%:*},image.tag=${image##*:},image.pullPolicy=$pull_policy" \
    --wait --timeout 180s || {
    kubectl get pods -n "$namespace" -o wide
    kubectl get events -n "$namespace" --sort-by=.lastTimestamp | tail -n 8
    kubectl logs -n "$namespace" -l app.kubernetes.io/name=hsm-operator --all-containers --prefix --tail 8
    return 1
  }
}

# A rebuilt image has the same tag: pods of the old one do not notice by themselves.
restart_if_older() {
  local loaded=$1/.image-digest digest
  digest=$(cat "$images/hsm-operator.key")
  [[ $(cat "$loaded" 2>/dev/null) == "$digest" ]] || [[ ! -f $loaded ]] ||
    kubectl rollout restart deployment -n "$namespace" -l app.kubernetes.io/name=hsm-operator
  kubectl rollout status deployment -n "$namespace" -l app.kubernetes.io/name=hsm-operator --timeout 120s
  printf '%s' "$digest" >"$loaded"
}

make_partition() {
  local partition=$root/config/samples/partition.yaml
  kubectl apply --server-side -f "$partition"
  kubectl wait -f "$partition" --for=condition=Ready --timeout=60s || {
    kubectl describe -f "$partition" | tail -n 25
    return 1
  }
}

gateway_ca() {
  kubectl get clustertrustbundles -o json | jq -er 'first(.items[]
    | select(.metadata.name | startswith("hsm-operator.io:")) | .spec.trustBundle)' >"$ca_file.new" ||
    kubectl get configmap hsm-operator-gateway-ca -n "$namespace" -o json | jq -er '.data["ca.crt"]' >"$ca_file.new"
  mv "$ca_file.new" "$ca_file"
}

install_all() {
  run 'images' 'make build first; the log says which file is missing' load_images
  [[ ! $existing ]] ||
    say "  the cluster must have these images (or set IMAGE and TOOLBOX_IMAGE to what it can pull):" \
      $'\n'"    $image    kind load image-archive $images/hsm-operator.tar" \
      $'\n'"    $toolbox    kind load image-archive $images/hsm-operator-toolbox.tar"
  run 'tokens' 'the Job hsm-demo-provision in namespace hsm-operator makes them: kubectl describe it' make_tokens
  run 'chart' 'kubectl get events -n hsm-operator; then run it again' install_chart
  [[ $existing ]] || run 'rollout' 'kubectl logs -n hsm-operator -l app.kubernetes.io/name=hsm-operator' restart_if_older "$state"
  run 'demo partition' 'the condition above says why; kubectl logs -n hsm-operator -l app.kubernetes.io/name=hsm-operator' make_partition
  run 'gateway CA' 'the controller publishes it as a ClusterTrustBundle: see its log' wait_for 30 'the bundle' gateway_ca
}

# Only what the demo made: on somebody's own cluster there may be other keys and partitions.
uninstall_all() {
  # The operator's own objects first, while it is there to take its finalizers off.
  run 'demo namespace' 'kubectl get hsmkeys,events -n hsm-demo' \
    kubectl delete namespace "$demo_namespace" --ignore-not-found --timeout 60s
  run 'demo partition' 'kubectl describe hsmpartition demo: which keys still refer to it?' \
    kubectl delete -f "$root/config/samples/partition.yaml" --ignore-not-found --timeout 60s
  run 'chart' 'helm status hsm-operator -n hsm-operator' helm uninstall hsm-operator -n "$namespace" --ignore-not-found --wait
  # Made by the controller and of the whole cluster, so that no chart and no namespace takes it along.
  kubectl delete clustertrustbundle hsm-operator.io:gateway:ca --ignore-not-found >/dev/null
  run 'namespace' 'kubectl get all -n hsm-operator' kubectl delete namespace "$namespace" --ignore-not-found --timeout 60s
  [[ $existing ]] || {
    kubectl delete persistentvolume hsm-demo --ignore-not-found >/dev/null
    rm -rf "$state/volumes/hsm-demo"
  }
}

case ${1:-} in
  tokens)
    "$here/image/build.sh" toolbox
    [[ $existing ]] || "$here/cluster.sh" load "$images/hsm-operator-toolbox.tar"
    run 'tokens' 'the Job hsm-demo-provision in namespace hsm-operator makes them: kubectl describe it' make_tokens
    ;;
  install) install_all ;;
  uninstall) uninstall_all ;;
  *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
