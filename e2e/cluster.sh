#!/usr/bin/env bash
# A real Kubernetes cluster of one node in a network namespace, without a container engine.
#
#   cluster.sh up [--control-plane-only]   start it, or do nothing when it runs
#   cluster.sh down                        remove every trace of it
#   cluster.sh lose-etcd                   empty its etcd, as if the disk was lost; nodes and volumes stay
#   cluster.sh status                      what runs
#   cluster.sh load TAR...                 OCI image archives into the node
#   cluster.sh restart NAME                kill etcd or kube-apiserver and start it again
#
# CLUSTER_NAME (demo) names it; its state is in target/cluster, or target/cluster-NAME.
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/lib.sh"
for part in place certs network control-plane node down; do
  source "$here/cluster/$part.sh"
done

kubernetes=$(tool_dir kubernetes)
kubectl() { "$kubernetes/kubectl" --kubeconfig "$state/admin.kubeconfig" --request-timeout 5s "$@"; }

write_env() {
  cat >"$state/env" <<EOF
# Source this: . ${state#"$root/"}/env
export KUBECONFIG='$state/admin.kubeconfig'
export PATH='$kubernetes:$(tool_dir helm)':"\$PATH"
# A prefix that runs a command inside the cluster's network, with its DNS.
export IN_CLUSTER='ip netns exec $netns'
export GATEWAY_URL='https://hsm-operator-gateway.hsm-operator.svc:8443'
export GATEWAY_CA='$state/gateway-ca.pem'
EOF
}

running() { # all daemons that this cluster was started with
  [[ -f $state/complete ]] || return 1
  local file
  for file in "$state"/pids/*; do
    is_ours "$(<"$file")" || return 1
  done
}

node_ready() {
  [[ $(kubectl get node "$node_name" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

# ctr waits 10 s for a socket that is not there yet, or tries again much later.
containerd_answers() { [[ -S $state/run/containerd.sock ]] && ctr_node --connect-timeout 1s version; }

# What a pod needs before it can be made.
basics_there() {
  kubectl get serviceaccount default -n default && kubectl get configmap kube-root-ca.crt -n default
}

failed() {
  local file name
  say "$1; these daemons are not well:"
  for file in "$state"/pids/*; do
    name=${file##*/}
    if [[ $name == "${2:-}" ]] || ! is_ours "$(<"$file")"; then
      say "  $name, the end of $state/log/$name.log:"
      tail -n 15 "$state/log/$name.log" | sed 's/^/    /' >&2
    fi
  done
  die 'the cluster did not start' 'logs: '"$state/log" 'then: e2e/cluster.sh down, and up again'
}

up() {
  local started only=${1:-}
  started=$(now_ms)
  ((EUID == 0)) || die 'a cluster needs root' 'network namespaces, mounts and containers are made'
  if running; then
    say "cluster $cluster_name runs already"
    return
  fi
  # Half a cluster is no cluster.
  [[ ! -e $state ]] || down
  [[ -d $kubernetes ]] || die 'the cluster tools are missing' 'run e2e/tools/build.sh'
  mkdir -p "$state"/{pids,log}
  make_network
  make_pki
  start_etcd
  start_apiserver
  if [[ $only != --control-plane-only ]]; then
    "$here/image/build.sh" pause
    make_cgroup
    start_containerd
    wait_for 20 'containerd answers' containerd_answers || failed 'containerd does not answer' containerd
    load "$root/target/images/hsm-operator-pause.tar"
  fi
  wait_for 60 'the API server is ready' apiserver_ready || failed 'the API server is not ready' kube-apiserver
  [[ $only == --control-plane-only ]] || join
  write_env
  touch "$state/complete"
  say "cluster $cluster_name is up: $(seconds_since "$started")   . ${state#"$root/"}/env"
}

# What needs an API server that answers. Not sooner: without their RBAC rules controllers give
# up, and the kubelet waits long before it tries to register again.
join() {
  start_kubelet
  start_controllers
  wait_for 30 'the node has registered' kubectl get node "$node_name" || failed 'no node' kubelet
  start_proxy
  start_dns
  wait_for 30 'the node is Ready' node_ready || failed 'the node is not ready' kubelet
  wait_for 30 'CoreDNS is ready' in_net curl -sf http://127.0.0.1:8181/ready || failed 'no DNS' coredns
  wait_for 30 'the default ServiceAccount' basics_there || failed 'no ServiceAccount' kube-controller-manager
}

lose_etcd() {
  local started
  started=$(now_ms)
  running || die "cluster $cluster_name is not running" 'run e2e/cluster.sh up'
  # The kubelet registers its node only when it starts. containerd goes on, with what runs in it.
  stop kubelet kube-controller-manager kube-scheduler kube-proxy coredns kube-apiserver etcd
  rm -rf "$state/etcd"
  node_ip=$(<"$state/node-ip")
  start_etcd
  start_apiserver
  wait_for 60 'the API server is ready' apiserver_ready || failed 'the API server is not ready' kube-apiserver
  join
  say "cluster $cluster_name has lost all objects: $(seconds_since "$started")"
}

load() {
  local tar
  for tar in "$@"; do
    [[ -f $tar ]] || die "no such image archive: $tar"
    # containerd's client runs with other mounts and another folder: hand it the bytes.
    ctr_node images import - <"$tar" >>"$state/log/load.log" 2>&1 ||
      die "could not load $tar" "$(tail -n 3 "$state/log/load.log")"
  done
}

restart() {
  local pid
  pid=$(<"$state/pids/$1")
  is_ours "$pid" || die "$1 does not run"
  kill -KILL "$pid"
  wait_for 10 "the end of $1" ended "$pid" || die "could not end $1"
  node_ip=$(<"$state/node-ip")
  case $1 in
    etcd) start_etcd ;;
    kube-apiserver) start_apiserver ;;
    *) die "cannot restart $1" ;;
  esac
  wait_for 60 'the API server is ready' apiserver_ready || failed 'the API server is not ready' kube-apiserver
}

status() {
  local file
  running || { say "cluster $cluster_name is not running"; return 1; }
  for file in "$state"/pids/*; do
    printf '%-24s pid %s\n' "${file##*/}" "$(<"$file")"
  done
  kubectl get nodes -o wide
}

case ${1:-} in
  up | load | restart) "$@" ;;
  down) down
    say "cluster $cluster_name is gone"
    ;;
  lose-etcd) lose_etcd ;;
  status) status ;;
  *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
