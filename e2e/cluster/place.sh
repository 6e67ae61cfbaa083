# shellcheck shell=bash
# Sourced: the names of one cluster. They follow from the checkout's path and the
# cluster's name, so two checkouts on one machine never meet.

cluster_name=${CLUSTER_NAME:-demo}
[[ $cluster_name =~ ^[a-z0-9-]{1,20}$ ]] || die "CLUSTER_NAME=$cluster_name: small letters, digits and dashes only"
state=$root/target/cluster
[[ $cluster_name == demo ]] || state+=-$cluster_name
id=$(printf '%s %s' "$root" "$cluster_name" | sha256sum | cut -c1-8)
netns=hsm-$id
link=hsm$id
cgroup=hsm-$id
# The state folder under a short name, for the node's daemons only: a socket's path has
# at most 107 characters, and a checkout may lie deep.
short=/run/hsm-$id
# Every daemon carries this in its environment: how `down` finds what is ours.
mark=HSM_OPERATOR_E2E_CLUSTER=$id

# Only seen inside the cluster's network namespace, so the same in every cluster.
service_cidr=10.96.0.0/16
kubernetes_ip=10.96.0.1
dns_ip=10.96.0.10
pod_cidr=10.244.0.0/16
node_name=node-1

in_net() { nsenter --net="/run/netns/$netns" -- "$@"; }
# In the network and with the mounts of the node's daemons.
in_node() { nsenter --target "$(<"$state/pids/containerd")" --net --mount -- "$@"; }
ctr_node() { in_node ctr --address "$short/run/containerd.sock" --namespace k8s.io "$@"; }
