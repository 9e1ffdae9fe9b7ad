#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# PID 1 of the lab host: makes a root file system of the host's and a tmpfs, and goes on in it as main.sh.
# shellcheck disable=SC1091 # what /lab/settings sets is below
share='' binds='' modules=''
. /lab/settings

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /lab/modules/*.ko; do
  [ -e "$module" ] && { insmod "$module" || echo "lab: cannot load $module"; }
done

if [ -n "$share" ]; then
  mkdir -p /host /writable
  mount -t virtiofs host /host || exec poweroff -f
  mount -t tmpfs -o mode=755 tmpfs /writable
  mkdir -p /writable/upper /writable/work
  mount -t overlay -o lowerdir=/host/root,upperdir=/writable/upper,workdir=/writable/work overlay /new ||
    exec poweroff -f
else
  mount --bind / /new
fi

# Paths that the file systems below hide: reached through a second mount of the same root.
mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp
mkdir -p /plain
mount --bind /new /plain
mount --move /dev /new/dev
mount --move /sys /new/sys
mount -t tmpfs -o mode=755 tmpfs /new/run
mount -t tmpfs -o mode=1777 tmpfs /new/tmp
for path in $binds; do
  mkdir -p "/new$path" && mount --bind "/plain$path" "/new$path"
done
if [ -n "$modules" ]; then
  mkdir -p "/new/lib/modules/${modules##*/}"
  mount --bind "/new$modules" "/new/lib/modules/${modules##*/}"
fi
mkdir -p /new/run/lab
cp -a /lab/command /lab/settings /lab/main /bin/busybox /new/run/lab/
umount /plain
mount --move /proc /new/proc

# A container runtime pivots its root, which the kernel refuses below the initramfs itself: pivot_root(2).
cd /new || exit 1
mount --move . /
exec chroot . /run/lab/busybox sh /run/lab/main
