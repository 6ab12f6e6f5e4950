#!/usr/bin/env bash
# Installs what one level of use needs: base (.venv), test (linters, pytest), rig (QEMU, image building).
# Idempotent; asks the registries only for what is missing. Leaves .cache/installed-LEVEL behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
level=$1
mkdir -p .cache

packages_base="python3 python3-venv"
packages_rig="qemu-system-x86 ovmf seabios ipxe-qemu mmdebstrap apt-utils zstd gdisk e2fsprogs dosfstools mtools
  grub-pc-bin grub-efi-amd64-bin grub-common kmod openssh-client busybox-static util-linux"
case $level in
  base) packages=$packages_base extra="" ;;
  test) packages="" extra="test,rig" ;;
  rig) packages=$packages_rig extra="rig,test" ;;
  *) echo "setup.sh: base, test or rig" >&2; exit 2 ;;
esac

missing=()
for package in $packages; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]})); then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >.cache/apt.log 2>&1 || { tail -n 20 .cache/apt.log >&2; exit 1; }
fi

[ -x .venv/bin/python ] || /usr/bin/python3 -m venv .venv
.venv/bin/pip install -q --disable-pip-version-check -e ".${extra:+[$extra]}" >.cache/pip.log 2>&1 || { tail -n 20 .cache/pip.log >&2; exit 1; }
touch ".cache/installed-$level"
