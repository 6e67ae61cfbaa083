#!/bin/sh
# Runs in the toolbox image with the shared volume at /hsm and PIN and SO_PIN in its
# environment: brings the PKCS#11 libraries and makes one token of each kind. A second
# run changes nothing.
set -eu
umask 0007

# Renamed into place: a token-host that has the old library mapped must not see it change.
install_library() {
  mkdir -p /hsm/lib
  cmp -s "$1" "/hsm/lib/$2" || { cp "$1" "/hsm/lib/.$2" && mv "/hsm/lib/.$2" "/hsm/lib/$2"; }
}

# make_token LIBRARY LABEL: in the first token that is not initialised yet. PINs go by
# name of a variable, so that no list of processes shows them.
make_token() {
  module=/hsm/lib/$1
  if pkcs11-tool --module "$module" --list-token-slots 2>/dev/null | grep -q "token label *: $2\$"; then
    echo "token $2 is there"
    return
  fi
  slot=$(pkcs11-tool --module "$module" --list-slots | sed -n 's/^Slot .*(0x\([0-9a-f]*\)).*/\1/p' | tail -n 1)
  pkcs11-tool --module "$module" --slot "0x$slot" --init-token --label "$2" --so-pin env:SO_PIN
  # SoftHSM gives an initialised token another slot.
  pkcs11-tool --module "$module" --token-label "$2" --login --login-type so --so-pin env:SO_PIN --init-pin --new-pin env:PIN
}

install_library /usr/lib/softhsm/libsofthsm2.so libsofthsm2.so
install_library /usr/lib/kryoptic/libkryoptic.so libkryoptic.so

mkdir -p /hsm/softhsm/tokens /hsm/kryoptic
cat >/hsm/softhsm/softhsm2.conf <<'EOF'
directories.tokendir = /hsm/softhsm/tokens
objectstore.backend = file
log.level = ERROR
EOF
cat >/hsm/kryoptic/token.conf <<'EOF'
[[slots]]
slot = 43
dbtype = "sqlite"
dbargs = "/hsm/kryoptic/token.sql"
EOF

export SOFTHSM2_CONF=/hsm/softhsm/softhsm2.conf KRYOPTIC_CONF=/hsm/kryoptic/token.conf
make_token libsofthsm2.so demo
make_token libkryoptic.so demo-kryoptic
