#!/usr/bin/env bash
# The fuzz targets for MINUTES each, one after the other. With cargo-fuzz and a nightly compiler under libFuzzer, which
# follows what the code does; without them with random changes only.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
minutes=${MINUTES:-1}
[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "MINUTES=$minutes is no number of minutes"
targets=$(sed -n 's/^    ("\([a-z_]*\)", [a-z_]*),$/\1/p' tests/fuzz/targets.rs)
[[ -z ${TARGET:-} ]] || targets=$TARGET

if cargo +nightly fuzz --version >/dev/null 2>&1; then
  for target in $targets; do
    say "  $target, $minutes min"
    # What is found is kept out of the repository; a small input that matters is added to the corpus by hand.
    mkdir -p "fuzz/target/corpus/$target"
    cargo +nightly fuzz run "$target" "fuzz/target/corpus/$target" "fuzz/corpus/$target" -- \
      -max_total_time=$((60 * minutes)) -max_len=8192 -rss_limit_mb=4096
  done
else
  say '  cargo-fuzz or a nightly compiler is missing (cargo install cargo-fuzz): random changes instead'
  for target in $targets; do
    FUZZ_MINUTES=$minutes FUZZ_SEED=${SEED:-} cargo test --release --locked --test fuzz -- --exact "$target" --nocapture
  done
fi
say 'nothing was found'
