#!/usr/bin/env bash
# Installs what the builds, the cluster and the tests need from Debian, if it is missing.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=(
  containerd runc containernetworking-plugins conntrack iptables iproute2 procps util-linux  # node
  busybox-static ca-certificates                                                                  # images
  softhsm2 opensc                                                                                 # tokens
  wrk                                                                                              # load for the bench
  gcc libc6-dev make perl libclang-dev                                                          # kryoptic and its OpenSSL
  jq curl openssl python3 python3-cryptography python3-venv unzip                                 # scripts, demo and tests
  chromium-headless-shell                                                                          # Swagger UI
)

missing=()
installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "${packages[@]}" 2>/dev/null | sed -n 's/^ii *//p') || true
for package in "${packages[@]}"; do
  grep -qxF "$package" <<<"$installed" || missing+=("$package")
done

if ((${#missing[@]})); then
  ((EUID == 0)) || die "missing packages: ${missing[*]}" "as root: apt-get install ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  hint='is the Debian mirror reachable, and no other apt running?'
  # A machine without package lists is as bare as one without the packages.
  run 'apt-get update' "$hint" apt-get -qq update
  # Suggested daemons (a running containerd service, say) are not wanted: only what is named.
  run "install ${#missing[@]} packages" "$hint" apt-get -qq install --no-install-recommends "${missing[@]}"
fi

for tool in cargo go; do
  command -v "$tool" >/dev/null || die "$tool is missing" \
    'Rust: https://rustup.rs (1.95 or newer)   Go: https://go.dev/dl (1.26 or newer)'
done
