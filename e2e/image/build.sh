#!/usr/bin/env bash
# Makes OCI image archives in target/images without a container engine:
#
#   build.sh pause               localhost/hsm-operator-pause:dev
#   build.sh toolbox             localhost/hsm-operator-toolbox:dev, for Jobs of demo and tests
#   build.sh operator [BINARY]   localhost/hsm-operator:dev, from target/release/hsm-operator
#
# and prints nothing but errors. Archives are reproducible: same files, same bytes.
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/../lib.sh"
source "$here/oci.sh"
source "$here/files.sh"
images=$root/target/images
layers=$cache/image
mkdir -p "$images" "$layers"

# What an OpenSSL-using C++ PKCS#11 library needs, as in distroless/cc, and no shell. OpenSSL's package has had
# several names, and what it needs itself differs between releases.
openssl=$(dpkg-query -S '*/libssl.so.3' | sed 's/:.*//;q')
base_packages=(libc6 libgcc-s1 libstdc++6 "$openssl" zlib1g ca-certificates)

base_files() {
  local package
  base_system "$1"
  for package in "${base_packages[@]}"; do
    package_files "$package" "$1"
  done
  libraries "$(dpkg -L "$openssl" | grep '/libcrypto\.so\.3$')" "$1"
  mkdir -p "$1/etc/ssl/certs"
  cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
}

toolbox_files() {
  local tool
  for tool in curl openssl jq pkcs11-tool softhsm2-util; do
    program "$tool" "$1"
  done
  mkdir -p "$1"/usr/lib/{softhsm,kryoptic,ssl} "$1/etc/ssl"
  cp -L /usr/lib/softhsm/libsofthsm2.so "$1/usr/lib/softhsm/"
  cp "$(kryoptic_library)" "$1/usr/lib/kryoptic/libkryoptic.so"
  cp /etc/ssl/openssl.cnf "$1/etc/ssl/"
  ln -s /etc/ssl/openssl.cnf "$1/usr/lib/ssl/openssl.cnf"
  ln -s /etc/ssl/certs "$1/usr/lib/ssl/certs"
  busybox_files "$1"
}

operator_files() {
  install -D -m 0755 "$binary" "$1/usr/local/bin/hsm-operator"
  install -m 0755 "$sidecar" "$1/usr/local/bin/hsm-operator-sidecar"
}
pause_files() { install -D -m 0755 "$(command -v busybox)" "$1/busybox"; }

versions() { dpkg-query -W -f '${Package} ${Version}\n' "$@"; cat "$here"/*.sh; }
base() { layer base "$(versions "${base_packages[@]}" | sha256sum | cut -c1-16)" base_files; }

case ${1:-} in
  pause)
    image hsm-operator-pause '["/busybox", "sleep", "infinity"]' 65532 \
      "$(layer pause "$(versions busybox-static | sha256sum | cut -c1-16)" pause_files)"
    ;;
  toolbox)
    [[ -f $(kryoptic_library) ]] || die 'the kryoptic library is missing' 'run e2e/kryoptic/build.sh'
    key=$({ versions busybox-static curl openssl jq opensc softhsm2; kryoptic_library; } | sha256sum | cut -c1-16)
    image hsm-operator-toolbox '["/bin/sh"]' 65532 "$(base)" "$(layer toolbox "$key" toolbox_files)"
    ;;
  operator)
    binary=${2:-$root/target/release/hsm-operator}
    sidecar=$binary-sidecar
    [[ -f $binary && -f $sidecar ]] || die "no operator binary: $binary and $sidecar" 'run make build'
    # Not kept in the cache: every build of the operator would add one.
    layers=$images/layers
    mkdir -p "$layers"
    key=$({ sha256sum "$binary" "$sidecar"; cat "$here"/*.sh; } | sha256sum | cut -c1-16)
    find "$layers" -name 'operator-*' ! -name "operator-$key.tar*" -delete
    operator=$(layer operator "$key" operator_files)
    layers=$cache/image
    image hsm-operator '["/usr/local/bin/hsm-operator"]' 65532 "$(base)" "$operator"
    ;;
  *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
