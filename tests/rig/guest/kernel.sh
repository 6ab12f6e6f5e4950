#!/bin/sh
# mmdebstrap's customize hook: kernel.sh ROOT. Unpacks Debian's cloud kernel without installing its package,
# which depends on an initramfs generator: NVMe and ext4 are built in, root=PARTUUID= needs no initramfs.
# Left out are modules for hardware and filesystems that no rig has (about half of 90 MB).
set -eu
root=$1
package=$(chroot "$root" apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
chroot "$root" sh -c "cd /tmp && apt-get download -q $package"
modules='./lib/modules/*/kernel'
dpkg-deb --fsys-tarfile "$root"/tmp/linux-image-*.deb | tar -x -C "$root" --keep-directory-symlink \
  --exclude='./usr/share/*' --exclude='./boot/System.map*' \
  --exclude="$modules/sound" --exclude="$modules/arch/x86/kvm" --exclude="$modules/drivers/comedi" \
  --exclude="$modules/drivers/infiniband" --exclude="$modules/drivers/target" --exclude="$modules/drivers/hid" \
  --exclude="$modules/drivers/scsi" --exclude="$modules/fs/btrfs" --exclude="$modules/fs/ceph" \
  --exclude="$modules/fs/nfs*" --exclude="$modules/fs/smb" --exclude="$modules/net/s*"
dpkg-deb -f "$root"/tmp/linux-image-*.deb Package Version >"$root/usr/lib/rig-kernel"
rm "$root"/tmp/linux-image-*.deb
depmod -b "$root" "$(ls "$root/lib/modules")"
