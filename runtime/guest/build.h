// SPDX-License-Identifier: Apache-2.0
// Assembles a guest image (image.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/guest/kernel_input.h"
#include "runtime/guest/progress.h"

namespace kiln::runtime {

struct GuestBuild {
  std::string output;  // directory; replaced as a whole
  std::string agent;   // the static program that becomes /init
  std::string cache;   // directory for downloads

  // One of: a kernel file, the distribution's source, a package.
  std::string kernel;
  std::string modules;  // directory; with `kernel`
  bool from_source = false;
  KernelSource source;
  std::string package = "linux-image-cloud-amd64";

  bool force = false;  // even if the image there is made of the same parts
};

struct BuiltGuest {
  bool unchanged = false;  // what was there is what would be built
  std::string kernel_release;
  uint64_t kernel_bytes = 0;
  uint64_t initramfs_bytes = 0;
  std::vector<std::string> modules;
};

// Leaves `output` as it was, or absent, on failure.
Result<BuiltGuest> build_guest(const GuestBuild& build, Progress& progress);

// $XDG_CACHE_HOME/kiln, /var/cache/kiln for root, ~/.cache/kiln.
std::string default_cache_directory();

}  // namespace kiln::runtime
