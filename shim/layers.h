// SPDX-License-Identifier: Apache-2.0
// Mounts that refer to each other, as containerd 2.2 and later have them for layers that are images
// (its erofs snapshotter): `format/mkdir/overlay` with `lowerdir={{ overlay 0 2 }}` after three of
// type erofs. Its mount manager mounts them, unless the shim claims that it does so itself.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/plan.h"
#include "shim.pb.h"
#include "task.pb.h"

namespace kiln::shim {

using Mounts = std::vector<api::Mount>;

// What the shim claims, in containerd's words. Not `mkfs`: that is done when the mounts come.
api::MountCapabilities mount_capabilities();

// The images, for drives of a machine: where the mounts are nothing else than erofs layers, an ext4
// image for what is written, and their overlay.
std::optional<runtime::RootLayers> root_layers(const Mounts& mounts);

// Whether the last of them is written in terms of the others.
bool refer_to_each_other(const Mounts& mounts);

// A mount without its references. `before`: those before it in the list; `points`: where these are.
struct Resolved {
  api::Mount mount;
  struct Directory {
    std::string path;
    unsigned mode = 0700;
  };
  std::vector<Directory> directories;  // to be made before
};
Result<Resolved> resolve(const api::Mount& mount, const Mounts& before,
                         const std::vector<std::string>& points);

}  // namespace kiln::shim
