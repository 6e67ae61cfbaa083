# shellcheck shell=bash
# Sourced: etcd, kube-apiserver, controller-manager and scheduler.

# start NAME COMMAND...: a daemon in the cluster's network, with log and pid file.
start() {
  local name=$1
  shift
  # Locks must not live on in the daemon: fds 8 and 9 are closed, and 3, which flock gives to what it runs.
  env "$mark" setsid nsenter --net="/run/netns/$netns" -- "$@" \
    >"$state/log/$name.log" 2>&1 </dev/null 3>&- 8>&- 9>&- &
  printf '%s\n' "$!" >"$state/pids/$name"
}

# stop NAME...: as a power cut would, and waits for their end.
stop() {
  local name pid
  for name in "$@"; do
    pid=$(<"$state/pids/$name")
    is_ours "$pid" || continue
    kill -KILL "$pid"
    wait_for 10 "the end of $name" ended "$pid" || die "could not end $name"
  done
}
# Nothing but its number is left, so that its port is free: its environment, by which it is known, goes earlier.
ended() {
  [[ -e /proc/$1 ]] || return 0
  [[ $(awk '{ print $3 }' "/proc/$1/stat" 2>/dev/null) == [ZX] && $(find "/proc/$1/task" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l) -le 1 ]]
}

start_etcd() {
  # Nothing here must survive a power cut, and fsync is most of etcd's time.
  start etcd "$(tool_dir etcd)/server" --data-dir "$state/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --listen-metrics-urls ''
}

start_apiserver() {
  local pki=$state/pki
  start kube-apiserver "$kubernetes/kube-apiserver" \
    --etcd-servers http://127.0.0.1:2379 \
    --advertise-address "$node_ip" --bind-address 0.0.0.0 --secure-port 6443 \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
    --client-ca-file "$pki/ca.crt" --authorization-mode Node,RBAC \
    --enable-admission-plugins NodeRestriction \
    --service-cluster-ip-range "$service_cidr" \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key" \
    --kubelet-certificate-authority "$pki/ca.crt" --kubelet-preferred-address-types InternalIP \
    --kubelet-client-certificate "$pki/apiserver-kubelet-client.crt" \
    --kubelet-client-key "$pki/apiserver-kubelet-client.key" \
    --requestheader-client-ca-file "$pki/front-proxy-ca.crt" \
    --requestheader-allowed-names front-proxy-client \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
    --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file "$pki/front-proxy-client.crt" \
    --proxy-client-key-file "$pki/front-proxy-client.key" \
    --enable-aggregator-routing --allow-privileged --profiling=false
}

start_controllers() {
  local pki=$state/pki config=$state/controller-manager.kubeconfig
  # The default of 20 requests a second makes the controllers start for 5 s.
  local fast=(--kube-api-qps 300 --kube-api-burst 600)
  start kube-controller-manager "$kubernetes/kube-controller-manager" \
    --kubeconfig "$config" --authentication-kubeconfig "$config" --authorization-kubeconfig "$config" \
    --bind-address 127.0.0.1 --leader-elect=false --profiling=false "${fast[@]}" --use-service-account-credentials \
    --root-ca-file "$pki/ca.crt" --service-account-private-key-file "$pki/sa.key" \
    --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key"
  config=$state/scheduler.kubeconfig
  start kube-scheduler "$kubernetes/kube-scheduler" \
    --kubeconfig "$config" --authentication-kubeconfig "$config" --authorization-kubeconfig "$config" \
    --bind-address 127.0.0.1 --leader-elect=false --profiling=false "${fast[@]}"
}

apiserver_ready() { kubectl get --raw /readyz; }
