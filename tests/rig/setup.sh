#!/usr/bin/env bash
# Installs what one level of use needs, and nothing that is there already:
#   base  .venv with flashboot and happycache      rig   QEMU, image building, S3 and EC2 servers
#   test  linters, type checker, pytest
# Debian's and Python's packages are fetched side by side. Leaves .cache/installed-LEVEL behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
level=$1
mkdir -p .cache

# Debian's own interpreter: the RAM OS ships the same one, so its .pyc files fit.
python=/usr/bin/python3
case $level in
  base) packages="python3 python3-venv" extra="" ;;
  test) packages="python3 python3-venv cpio gdisk util-linux-extra" extra="[test,rig]" ;; # types read the rig too
  rig)
    packages="python3 python3-venv qemu-system-x86 ovmf seabios ipxe-qemu mmdebstrap debian-archive-keyring
      busybox-static dosfstools e2fsprogs fdisk gdisk grub-common grub-efi-amd64-bin grub-pc-bin kmod mtools
      mount openssh-client util-linux util-linux-extra xfsprogs zstd"
    extra="[rig]"
    ;;
  *) echo "setup.sh: base, test or rig" >&2; exit 2 ;;
esac

said() { [ -t 2 ] || [ "${CI:-}" ] && echo "setup: $*" >&2 || true; }
installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }
install_debian() { # PACKAGE...
  local missing=()
  for package; do installed "$package" || missing+=("$package"); done
  ((${#missing[@]})) || return 0
  said "Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >.cache/apt.log 2>&1 </dev/null || { tail -n 20 .cache/apt.log >&2; return 1; }
}
install_python() {
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  said "Python packages: flashboot$extra"
  .venv/bin/pip install --disable-pip-version-check -e ".$extra" >.cache/pip.log 2>&1 \
    || { tail -n 20 .cache/pip.log >&2; return 1; }
}

# shellcheck disable=SC2086 # one word a package is meant
if installed python3 && installed python3-venv; then
  install_debian $packages &
  debian=$!
  install_python
  wait "$debian"
else
  install_debian $packages
  install_python
fi
touch ".cache/installed-$level"
