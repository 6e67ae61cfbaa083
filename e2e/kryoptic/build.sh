#!/usr/bin/env bash
# Builds the kryoptic token library, and a program that verifies with its OpenSSL, into the cache (3 minutes); prints the
# path of the library.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

library=$(kryoptic_library)

build() {
  local work=$cache/kryoptic/target
  # The wrapper's own lock file decides, and the caller's cargo settings do not:
  # a shared target folder or flags for the operator would only cause rebuilds.
  (cd "$root/e2e/kryoptic" && env -u RUSTFLAGS -u CARGO_BUILD_TARGET CARGO_TARGET_DIR="$work" \
    cargo build --release --locked) || return 1
  mkdir -p "$(dirname "$library")"
  # The library comes last: where it is, all is.
  cp "$work/release/openssl-verify" "$(dirname "$library")/" || return 1
  cp "$work/release/libkryoptic.so" "$library.$$" && mv "$library.$$" "$library" || return 1
  # 1 GiB of intermediate results that only a new kryoptic would want.
  rm -rf "$work"
}

if [[ ! -f $library ]]; then
  mkdir -p "$cache/kryoptic"
  exec 9>"$cache/kryoptic/lock"
  flock -n 9 || { say '  waiting for another build of kryoptic'; flock 9; }
  [[ -f $library ]] || run 'build kryoptic' \
    'it needs libclang, perl, make and a C compiler: run e2e/setup.sh' build
fi
printf '%s\n' "$library"
