#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# PID 1 of the lab host, in its final root: runs the command, hands on its output and exit status.
# shellcheck disable=SC1091 # what /run/lab/settings sets is below
quiet='' share=''
. /run/lab/settings
[ -n "$share" ] && export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
busybox=/run/lab/busybox
b() { "$busybox" "$@"; }

b mkdir -p /dev/pts /dev/shm /dev/mqueue /dev/virtio-ports
b mount -t devpts -o ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts
b mount -t tmpfs -o mode=1777 tmpfs /dev/shm
b mount -t mqueue mqueue /dev/mqueue 2>/dev/null
# As `kiln check` advises: without favordynmods each VM waits milliseconds for its kernel thread to enter a cgroup.
b mount -t cgroup2 -o favordynmods cgroup2 /sys/fs/cgroup 2>/dev/null || b mount -t cgroup2 cgroup2 /sys/fs/cgroup
b mount -t bpf bpf /sys/fs/bpf 2>/dev/null
b mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
b ln -sf /proc/self/fd /dev/fd
b ln -sf fd/0 /dev/stdin
b ln -sf fd/1 /dev/stdout
b ln -sf fd/2 /dev/stderr
# As systemd's rules for devices have it: a user without privileges has virtual machines too.
[ -e /dev/kvm ] && b chmod 0666 /dev/kvm
b hostname lab
b ip link set lo up
# As on any host: children may be limited by their own cgroups.
for controller in $(b cat /sys/fs/cgroup/cgroup.controllers); do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done

# Sets `ports`, opens the control channel as descriptor 3.
open_ports() {
  for module in /lab/late/*.ko; do
    [ -e "$module" ] && b insmod "$module"
  done
  for port in /sys/class/virtio-ports/*; do
    b ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$(b cat "$port/name")"
  done
  ports=/dev/virtio-ports
  exec 3>$ports/lab.control || b poweroff -f
  echo ready >&3
}

# Through pipes: a port can be opened once only, but a script may open /dev/stderr again.
# Where the count of instructions is to be exact, nothing is said to the host before the command has ended.
if [ -n "$quiet" ]; then
  b setsid "$busybox" sh /run/lab/command >/run/lab/out 2>/run/lab/err </dev/null
  status=$?
  open_ports
  b cat /run/lab/out >$ports/lab.out
  b cat /run/lab/err >$ports/lab.err
else
  open_ports
  # The host takes silence for a freeze.
  while b sleep 1; do echo alive; done >&3 2>/dev/null &
  b mkfifo /run/lab/out /run/lab/err
  b cat /run/lab/out >$ports/lab.out 3>&- &
  out=$!
  b cat /run/lab/err >$ports/lab.err 3>&- &
  err=$!
  b setsid "$busybox" sh /run/lab/command >/run/lab/out 2>/run/lab/err </dev/null 3>&- &
  command=$!
  wait $command
  status=$?
  # Until what it left running has closed its output too, but not for long.
  tries=0
  while { [ -e /proc/$out ] || [ -e /proc/$err ]; } && [ $tries -lt 20 ]; do
    b usleep 50000
    tries=$((tries + 1))
    jobs >/dev/null # ash notices here which children have ended
  done
fi
[ $status -eq 0 ] || b dmesg >$ports/lab.dmesg
echo "exit $status" >&3
b poweroff -f
