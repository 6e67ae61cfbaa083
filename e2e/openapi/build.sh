#!/usr/bin/env bash
# Installs the pinned tools that read the OpenAPI document (schemathesis, openapi-spec-validator) into the cache and
# prints where. To pin others: change requirements.in, then
#   pip-compile --generate-hashes --strip-extras --allow-unsafe --annotation-style=line requirements.in
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

requirements=$root/e2e/openapi/requirements.txt
python=${PYTHON:-/usr/bin/python3}
target=$cache/openapi/$(hash_extra=$("$python" --version 2>&1) hash_of "$requirements")

build() {
  # Half of it never has the file that callers look for.
  rm -rf "$target"
  "$python" -m venv "$target" &&
    "$target/bin/pip" install --disable-pip-version-check --quiet --require-hashes --no-deps --only-binary :all: \
      -r "$requirements" &&
    touch "$target/complete"
}

if [[ ! -f $target/complete ]]; then
  mkdir -p "$cache/openapi"
  exec 9>"$cache/openapi/lock"
  flock -n 9 || { say '  waiting for another installation of the OpenAPI tools'; flock 9; }
  [[ -f $target/complete ]] || run 'install OpenAPI tools' \
    'the network must reach a Python package index; python3-venv comes with e2e/setup.sh' build
fi
printf '%s\n' "$target"
