# shellcheck shell=bash
# Sourced: the network namespace, its link to the host and name resolution in it.

# Sets node_ip. The lock keeps two checkouts from taking the same free subnet.
make_network() {
  local try subnet
  exec 8>/run/hsm-operator-e2e.lock
  flock 8
  for ((try = 0; try < 256; try++)); do
    subnet=10.231.$(((16#${id:0:2} + try) % 256))
    [[ -n $(ip -4 route show root "$subnet.0/24") ]] || break
  done
  ((try < 256)) || die 'no free subnet in 10.231.0.0/16' 'ip -4 route shows who uses them'
  node_ip=$subnet.2
  ip netns add "$netns"
  ip link add "$link" type veth peer name eth0 netns "$netns"
  ip addr add "$subnet.1/24" dev "$link"
  ip link set "$link" up
  exec 8>&-
  in_net bash -euc "
    ip link set lo up
    ip addr add $node_ip/24 dev eth0
    ip link set eth0 up
    # A local process needs some route to a service address before iptables
    # can turn it into an endpoint's.
    ip route add $service_cidr dev eth0 src $node_ip
    sysctl -qw net.ipv4.ip_forward=1"
  # ip netns exec puts this over /etc/resolv.conf.
  mkdir -p "/etc/netns/$netns"
  printf 'nameserver %s\nsearch svc.cluster.local cluster.local\noptions ndots:5\n' "$dns_ip" >"/etc/netns/$netns/resolv.conf"
  printf '%s\n' "$node_ip" >"$state/node-ip"
}

remove_network() {
  ip link del "$link" 2>/dev/null || true
  # A test in the network of one cluster may have started another, whose name is mounted
  # in the test's mounts only: then only its file is seen here.
  ip netns del "$netns" 2>/dev/null || rm -f "/run/netns/$netns"
  rm -rf "/etc/netns/$netns"
  rmdir /etc/netns 2>/dev/null || true
}
