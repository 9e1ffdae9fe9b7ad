#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Called by `meson install`: install.sh IMAGE-DIRECTORY TARGET (below the prefix)
set -eu
target="$MESON_INSTALL_DESTDIR_PREFIX/$2"
install -d "$target"
install -m 0644 "$1/vmlinux" "$1/initramfs.cpio" "$1/manifest.json" "$target/"
