# shellcheck shell=bash
# Sourced: files of the machine's own Debian packages, copied into an image's root.
# The operator is built on this machine, so these are the libraries it was linked with.

base_system() {
  mkdir -p "$1"/{etc,usr/bin,usr/sbin,usr/lib,usr/lib64,var/lib/dpkg/status.d,home/nonroot,proc,sys,dev,run}
  install -d -m 1777 "$1/tmp"
  local dir
  for dir in bin sbin lib lib64; do
    ln -s "usr/$dir" "$1/$dir"
  done
  printf '%s\n' 'root:x:0:0:root:/root:/sbin/nologin' 'nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin' \
    'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >"$1/etc/passwd"
  printf '%s\n' 'root:x:0:' 'nobody:x:65534:' 'nonroot:x:65532:' >"$1/etc/group"
  printf 'hosts: files dns\n' >"$1/etc/nsswitch.conf"
  cp /etc/os-release "$1/etc/os-release"
}

# package_files PACKAGE ROOT: its libraries, its licence, and its record for scanners.
package_files() {
  local file target
  while read -r file; do
    case $file in
      */gconv/* | */audit/*  | *.py) continue ;;
      /lib/* | /lib64/* | /usr/lib/* | /usr/lib64/* | /usr/share/doc/*/copyright) ;;
      *) continue ;;
    esac
    [[ -f $file || -L $file ]] || continue
    # /lib is a link to /usr/lib, here and there.
    target=$2/usr/${file#/}
    target=${target/"$2/usr/usr/"/"$2/usr/"}
    mkdir -p "${target%/*}"
    cp -a "$file" "$target"
  done < <(dpkg -L "$1")
  dpkg-query -s "$1" >"$2/var/lib/dpkg/status.d/$1"
}

# program NAME ROOT: an executable with the libraries it is linked to.
program() {
  install -D -m 0755 "$(command -v "$1")" "$2/usr/bin/$1"
  libraries "$2/usr/bin/$1" "$2"
}

libraries() {
  local library
  while read -r library; do
    # By content: the name that the linker asks for is often a link. What the base
    # layer has comes again, and identical.
    install -D -m 0644 "$library" "$2/usr/lib/${library#*/lib/}"
  done < <(ldd "$1" | awk '$3 ~ "/lib/" { print $3 }')
}

busybox_files() {
  local applet
  install -D -m 0755 "$(command -v busybox)" "$1/usr/bin/busybox"
  for applet in $(busybox --list); do
    [[ -e $1/usr/bin/$applet ]] || ln -s busybox "$1/usr/bin/$applet"
  done
}
