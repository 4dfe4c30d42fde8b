#!/usr/bin/env bash
# Installs what the build and the tests need from the distribution, where it is missing:
# a C compiler (ring), protoc (etcd-client's build), etcd (the tests of the coordinator), strace
# (the test that lets syncs fail), libfaketime (the test that steps the clock), iproute2 (the faults
# that lose packets).
set -euo pipefail

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v protoc >/dev/null || missing+=(protobuf-compiler)
command -v etcd >/dev/null || [ -x /usr/sbin/etcd ] || missing+=(etcd-server)
command -v etcdctl >/dev/null || missing+=(etcd-client)
command -v strace >/dev/null || missing+=(strace)
command -v ip >/dev/null || [ -x /usr/sbin/ip ] || missing+=(iproute2)
compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" >/dev/null || missing+=(libfaketime)
if ! command -v cargo >/dev/null; then
  echo "setup: no Rust toolchain found; install one with rustup (https://rustup.rs), then run make again" >&2
  exit 1
fi
[ ${#missing[@]} -eq 0 ] && exit 0

install="apt-get install -y --no-install-recommends ${missing[*]}"
if ! command -v apt-get >/dev/null; then
  echo "setup: missing: ${missing[*]} (Debian's names); install them with your package manager" >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo="sudo"
  else
    echo "setup: missing: ${missing[*]}; as root run: apt-get update && $install" >&2
    exit 1
  fi
fi
echo "setup: installing ${missing[*]} from the distribution" >&2
export DEBIAN_FRONTEND=noninteractive
${sudo:-} apt-get update -q >/dev/null
${sudo:-} $install >/dev/null
# Debian starts a service of its own; the tests start what they need by themselves.
${sudo:-} systemctl disable --now etcd >/dev/null 2>&1 || true
