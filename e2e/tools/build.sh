#!/usr/bin/env bash
# Builds the pinned tools of this folder into the cache: build.sh [TOOL...]
# A tool that is there already costs a few milliseconds.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

version_of() { awk -v module="$2" '$1 == "require" && $2 == module { print $3; exit } $1 == module { print $2; exit }' "$root/e2e/tools/$1/go.mod"; }

# Without the version clients see v0.0.0 and refuse features by skew.
kubernetes_flags() {
  local version minor package
  version=$(version_of kubernetes k8s.io/kubernetes)
  minor=${version#v1.}
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    printf -- '-X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=%s -X %s.gitTreeState=clean ' \
      "$package" "$version" "$package" "$package" "${minor%%.*}" "$package"
  done
}

build() {
  local tool=$1 target=$2 flags='-s -w' made
  [[ $tool != kubernetes ]] || flags+=" $(kubernetes_flags)"
  made=$(mktemp -d "$target.XXXXXX")
  # A half-built folder never gets the name that callers look for.
  if (cd "$root/e2e/tools/$tool" && go build -buildvcs=false -ldflags "$flags" -o "$made/" tool); then
    mv -T "$made" "$target"
  else
    rm -rf "$made"
    return 1
  fi
}

(($# > 0)) || set -- etcd coredns helm kubernetes
command -v go >/dev/null || die 'go is missing' 'install Go 1.26 or newer: https://go.dev/dl/'
mkdir -p "$cache/bin"
for tool in "$@"; do
  target=$(tool_dir "$tool")
  [[ ! -d $target ]] || continue
  exec 9>"$cache/bin/$tool.lock"
  flock -n 9 || { say "  waiting for another build of $tool"; flock 9; }
  # Another checkout may have built it while this one waited.
  [[ -d $target ]] || run "build $tool" \
    'the network must reach a Go module proxy (GOPROXY); then run it again, it goes on where it stopped' \
    build "$tool" "$target"
  exec 9>&-
done
