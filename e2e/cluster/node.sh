# shellcheck shell=bash
# Sourced: containerd, kubelet, kube-proxy and CoreDNS.

# containerd comes first and gets mounts of its own, which the kubelet shares: whatever
# they mount is invisible to the host and gone with the last of them.
start_containerd() {
  mkdir -p "$short" "$state"/{run,cni,containerd,kubelet,volumes} /run/containerd /var/lib/cni
  local snapshotter=overlayfs
  overlay_works || snapshotter=native
  cat >"$state/containerd.toml" <<EOF
version = 2
root = "$short/containerd"
state = "$short/run/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "$short/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/hsm-operator-pause:dev"
  # Where the operator may not lower an oom score, containers must not fail for it.
  restrict_oom_score_adj = true
  # The default would leave files in /run/netns.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$short/cni"
EOF
  # Routed, not bridged: a service's answer then always passes iptables, without br_netfilter.
  cat >"$state/cni/10-pods.conflist" <<EOF
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipam": {"type": "host-local", "dataDir": "$short/ipam",
    "ranges": [[{"subnet": "$pod_cidr"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
  # The tmpfs mounts hide what containerd, its shims, the kubelet and the CNI plugins
  # would leave behind in places that cannot be configured.
  start containerd unshare --mount --propagation slave bash -euc "
    mount --make-rshared /
    mount --bind '$state' '$short'
    mount --make-private '$short' && mount --make-shared '$short'
    mount -t tmpfs tmpfs /run/containerd
    mount -t tmpfs tmpfs /var/lib/cni
    mount -t tmpfs tmpfs /var/log
    exec containerd --config '$short/containerd.toml'"
}

# An overlay on an overlay (a checkout in a container) does not mount.
overlay_works() {
  local try=$state/overlay status=0
  mkdir -p "$try"/{lower,upper,work,merged}
  unshare --mount mount -t overlay overlay \
    -o "lowerdir=$try/lower,upperdir=$try/upper,workdir=$try/work" "$try/merged" 2>/dev/null || status=$?
  rm -rf "$try"
  return "$status"
}

# The kubelet wants its root cgroup to be there, in every hierarchy.
make_cgroup() {
  local hierarchy
  if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
    mkdir -p "/sys/fs/cgroup/$cgroup"
    for hierarchy in $(</sys/fs/cgroup/cgroup.controllers); do
      echo "+$hierarchy" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
      echo "+$hierarchy" >"/sys/fs/cgroup/$cgroup/cgroup.subtree_control" 2>/dev/null || true
    done
    return
  fi
  for hierarchy in /sys/fs/cgroup/*/; do
    [[ ! -f $hierarchy/cgroup.procs ]] || mkdir -p "$hierarchy/$cgroup"
  done
  # A new cpuset is empty and takes no process until it is told its CPUs.
  for hierarchy in cpus mems; do
    cat "/sys/fs/cgroup/cpuset/cpuset.$hierarchy" >"/sys/fs/cgroup/cpuset/$cgroup/cpuset.$hierarchy" 2>/dev/null || true
  done
}

start_kubelet() {
  cat >"$state/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true, cacheTTL: 30s}
  x509: {clientCAFile: $short/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $short/pki/kubelet-server.crt
tlsPrivateKeyFile: $short/pki/kubelet-server.key
containerRuntimeEndpoint: unix://$short/run/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
failCgroupV1: false
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [$dns_ip]
resolvConf: ""
volumePluginDir: $short/volume-plugins
podLogsDir: $short/pod-logs
maxPods: 250
# Images cannot be pulled again here, and a full disk is the reader's own business.
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
evictionHard: {memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}
# Tests start many pods at once.
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 100
kubeAPIBurst: 200
EOF
  start kubelet nsenter --target "$(<"$state/pids/containerd")" --mount -- \
    "$kubernetes/kubelet" --config "$short/kubelet.yaml" --kubeconfig "$short/kubelet.kubeconfig" \
    --root-dir "$short/kubelet" --cert-dir "$short/kubelet/pki" \
    --hostname-override "$node_name" --node-ip "$node_ip"
}

start_proxy() {
  cat >"$state/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $state/kube-proxy.kubeconfig}
mode: iptables
clusterCIDR: $pod_cidr
hostnameOverride: $node_name
iptables: {minSyncPeriod: 100ms}
# These limits are the host's and not ours to set.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
EOF
  start kube-proxy "$kubernetes/kube-proxy" --config "$state/kube-proxy.yaml"
}

# CoreDNS is a process beside the kubelet: one image less to build and to load.
start_dns() {
  cat >"$state/Corefile" <<EOF
cluster.local:1053 in-addr.arpa:1053 {
  bind $node_ip
  errors
  ready 127.0.0.1:8181
  kubernetes {
    kubeconfig $state/coredns.kubeconfig
    ttl 5
  }
}
# Nothing outside the cluster can be reached: say so at once.
.:1053 {
  bind $node_ip
  template ANY ANY {
    rcode NXDOMAIN
  }
}
EOF
  kubectl apply --server-side -f - >/dev/null <<EOF
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "hsm-e2e:coredns"}
rules:
- {apiGroups: [""], resources: [services, namespaces, pods, endpoints], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "hsm-e2e:coredns"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "hsm-e2e:coredns"}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: "hsm-e2e:coredns"}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $dns_ip
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {kubernetes.io/service-name: kube-dns}
addressType: IPv4
endpoints:
- addresses: [$node_ip]
ports:
- {name: dns, port: 1053, protocol: UDP}
- {name: dns-tcp, port: 1053, protocol: TCP}
EOF
  # Not sooner: without its rights it starts late.
  start coredns "$(tool_dir coredns)/coredns" -conf "$state/Corefile"
}
