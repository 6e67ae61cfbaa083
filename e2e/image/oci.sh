# shellcheck shell=bash
# Sourced: OCI layers and archives out of tar and sha256sum.

# layer NAME KEY FUNCTION: prints the tar that holds what FUNCTION puts into a folder.
# The tar's digest lies beside it. KEY stands for everything that goes in.
layer() {
  local tar=$layers/$1-$2.tar work
  if [[ ! -f $tar.digest ]]; then
    work=$(mktemp -d)
    mkdir "$work/root"
    "$3" "$work/root" || { rm -rf "$work"; die "could not collect the files of layer $1" 'run e2e/setup.sh'; }
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu \
      -C "$work/root" -cf "$work/layer.tar" .
    mv "$work/layer.tar" "$tar.$$" && mv "$tar.$$" "$tar"
    sha256sum "$tar" | cut -d' ' -f1 >"$tar.digest.$$" && mv "$tar.digest.$$" "$tar.digest"
    rm -rf "$work"
  fi
  printf '%s' "$tar"
}

# blob FILE [DIGEST]: into the layout under its digest.
blob() {
  local digest=${2:-$(sha256sum "$1" | cut -d' ' -f1)}
  ln -f "$1" "$layout/blobs/sha256/$digest" 2>/dev/null || cp "$1" "$layout/blobs/sha256/$digest"
  printf '"digest": "sha256:%s", "size": %s' "$digest" "$(stat -c %s "$1")"
}

# image NAME ENTRYPOINT USER LAYER...
image() {
  local name=$1 entrypoint=$2 user=$3 tar diffs='' descriptors='' type=application/vnd.oci.image key
  shift 3
  key=$(cat "${@/%/.digest}" "$here/oci.sh" | sha256sum)
  [[ ! -f $images/$name.tar || $(cat "$images/$name.key" 2>/dev/null) != "$key" ]] || return 0
  layout=$(mktemp -d -p "$images")
  mkdir -p "$layout/blobs/sha256"
  for tar in "$@"; do
    diffs+=${diffs:+, }\"sha256:$(<"$tar.digest")\"
    descriptors+=${descriptors:+, }"{\"mediaType\": \"$type.layer.v1.tar\", $(blob "$tar" "$(<"$tar.digest")")}"
  done
  cat >"$layout/config" <<EOF
{"architecture": "$(dpkg --print-architecture)", "os": "linux",
 "config": {"User": "$user:$user", "Entrypoint": $entrypoint, "WorkingDir": "/",
  "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"]},
 "rootfs": {"type": "layers", "diff_ids": [$diffs]}}
EOF
  cat >"$layout/manifest" <<EOF
{"schemaVersion": 2, "mediaType": "$type.manifest.v1+json",
 "config": {"mediaType": "$type.config.v1+json", $(blob "$layout/config")},
 "layers": [$descriptors]}
EOF
  cat >"$layout/index.json" <<EOF
{"schemaVersion": 2, "mediaType": "$type.index.v1+json", "manifests": [
 {"mediaType": "$type.manifest.v1+json", $(blob "$layout/manifest"),
  "annotations": {"io.containerd.image.name": "localhost/$name:dev", "org.opencontainers.image.ref.name": "dev"}}]}
EOF
  printf '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu --hard-dereference \
    -C "$layout" -cf "$layout.tar" oci-layout index.json blobs
  mv "$layout.tar" "$images/$name.tar"
  printf '%s' "$key" >"$images/$name.key"
  rm -rf "$layout"
}
