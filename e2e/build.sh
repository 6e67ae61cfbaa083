#!/usr/bin/env bash
# Builds the operator in release, with progress and without a wall of text.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
run 'build operator' 'cargo build --release shows all of it' cargo build --release --locked
