#!/usr/bin/env bash
# The fuzz targets for MINUTES each, one after the other, under libFuzzer, which follows what the code does and needs a C++
# compiler and nothing else: the usual compiler counts the edges, without sanitizers, which only a nightly one has. Without
# a C++ compiler, with random changes of the corpus (tests/fuzz), which follow nothing.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
minutes=${MINUTES:-1}
[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "MINUTES=$minutes is no number of minutes"
targets=$(sed -n 's/^    ("\([a-z0-9_]*\)", [a-z0-9_]*),$/\1/p' tests/fuzz/targets.rs)
[[ -z ${TARGET:-} ]] || targets=$TARGET

if command -v "${CXX:-c++}" >/dev/null; then
  # As cargo-fuzz does it. With --target, what runs while building is not followed.
  machine=$(rustc -vV | sed -n 's/^host: //p')
  flags='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters'
  flags+=' -Cllvm-args=-sanitizer-coverage-pc-table -Cdebug-assertions -Coverflow-checks -Ccodegen-units=16 --cfg fuzzing'
  built=()
  for target in $targets; do built+=(--bin "$target"); done
  RUSTFLAGS="$flags" cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$machine" "${built[@]}"
  for target in $targets; do
    say "  $target, $minutes min under libFuzzer"
    # What is found is kept out of the repository; a small input that matters is added to the corpus by hand.
    mkdir -p "fuzz/target/corpus/$target" fuzz/target/found
    "fuzz/target/$machine/release/$target" -max_total_time=$((60 * minutes)) -max_len=8192 -rss_limit_mb=4096 \
      -artifact_prefix="fuzz/target/found/$target-" "fuzz/target/corpus/$target" "fuzz/corpus/$target"
  done
else
  say '  there is no C++ compiler for libFuzzer: random changes instead'
  for target in $targets; do
    FUZZ_MINUTES=$minutes FUZZ_SEED=${SEED:-} cargo test --release --locked --test fuzz -- --exact "$target" --nocapture
  done
fi
say 'nothing was found'
