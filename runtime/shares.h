// SPDX-License-Identifier: Apache-2.0
// What the host shares with the guest: the rootfs and the sources of bind mounts, as descriptors.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "oci/spec.h"

namespace kiln::runtime {

struct Share {
  std::string entry;       // its name in the virtio-fs server's root
  std::string source;      // for messages
  UniqueFd fd;             // a detached copy of the mount, or an O_PATH descriptor
  bool read_only = false;  // all of it, for the server to see to
  // The mount itself alone, not those below it: the host's kernel sees to it, by the copy's flag.
  bool top_read_only = false;
  // Whoever shares this source sees the same: nothing is mounted below it, or that is left out.
  bool same_for_all = false;
};

struct Shares {
  std::vector<Share> list;                     // the first is the rootfs, if there is one
  bool has_root = false;                       // unless that is a disk
  std::map<size_t, std::string> bind_entries;  // index in spec.mounts → entry
  // Mounts, by index in spec.mounts, of which the host keeps the top read-only (Share): the guest's
  // must not be, since it is one mount for all that is mounted below the source.
  std::set<size_t> read_only_tops;
  // Sources that are sockets, by index in spec.mounts: no file server can share one
  // (forward_places.h).
  std::map<size_t, Share> sockets;
};

// Opens everything that `spec` wants shared; relative paths are the bundle's. In a rootfs that is
// read-only the missing mountpoints are made here, since the guest will not be able to.
enum class RootKind {
  kPlain,
  kOverlaid,  // the guest puts a writable layer over the rootfs, which itself stays read-only
  kDisk,      // not shared: disks.h
};
// `prefix`: before the name of each entry. `foreign`: a mount whose source is the agent's.
Result<Shares> open_shares(const oci::Spec& spec, const std::string& bundle, RootKind root,
                           const std::string& prefix = {},
                           std::optional<size_t> foreign = std::nullopt);

// The bundle's rootfs as an absolute path.
std::string rootfs_path(const oci::Spec& spec, const std::string& bundle);

// Whether the path is the directory or leads below it, by their names alone.
bool is_beneath(const std::string& path, const std::string& directory);

// Makes the file or directory `path` inside the directory `root_fd`, with what leads to it.
// Symlinks in it are resolved as if `root_fd` were the root. Success if it exists.
Result<void> make_mountpoint(int root_fd, const std::string& path, bool directory);

}  // namespace kiln::runtime
