# shellcheck shell=bash
# Sourced: ending a cluster, whole or half started. What is ours is known by the mark in
# its environment (daemons, shims) or by its cgroup (containers), never by its name.

daemon_pids() {
  # A process of ours is a child of nothing we could ask: look at all of them.
  grep -lzxF "$mark" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 || true
}

container_pids() {
  # As many files as containers; sort removes the copies of cgroup v1's hierarchies.
  find /sys/fs/cgroup -path "*/$cgroup/*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u
}

kill_all() {
  local try pids
  for ((try = 0; try < 100; try++)); do
    pids=$("$@")
    [[ -n $pids ]] || return 0
    # shellcheck disable=SC2086 # one word each
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
  die "could not end: $("$@" | paste -sd' ')" 'a process that cannot be killed waits for the kernel: see ps -o pid,stat,wchan,args'
}

# Not by kill -0: a zombie still has its number, and a number may be given again.
is_ours() { grep -qzxF "$mark" "/proc/$1/environ" 2>/dev/null; }

# First, because they would start again what is killed under them.
kill_managers() {
  local file
  for file in "$state"/pids/{kubelet,containerd}; do
    if [[ -f $file ]] && is_ours "$(<"$file")"; then kill -KILL "$(<"$file")" || true; fi
  done
}

down() {
  kill_managers
  # Containers before their shims, which reap them.
  kill_all container_pids
  kill_all daemon_pids
  remove_network
  # Children before parents; a busy one gets a second chance.
  local try
  for try in 1 2 3; do
    find /sys/fs/cgroup -depth -type d \( -path "*/$cgroup" -o -path "*/$cgroup/*" \) -exec rmdir {} + 2>/dev/null && break
    sleep 0.1
  done
  rm -rf "$state" 2>/dev/null || { sleep 0.5; rm -rf "$state"; }
  [[ ! -d $short ]] || rmdir "$short"
}
