// SPDX-License-Identifier: Apache-2.0
// The guest image: a directory with the kernel (an ELF file that boots by PVH), the initramfs with
// the agent and the kernel's modules, and a manifest.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "runtime/config/config.h"

namespace kiln::runtime {

constexpr const char* kKernelName = "vmlinux";
constexpr const char* kInitramfsName = "initramfs.cpio";
constexpr const char* kManifestName = "manifest.json";

struct GuestImage {
  std::string directory;
  std::string kernel_path;
  std::string initramfs_path;
};

// guest.directory of the configuration, else the first `guest` directory beside the program or
// where kiln is installed. Checks that kernel and initramfs are whole as far as a look at their
// headers and sizes can tell. Errors say what to do.
Result<GuestImage> find_guest_image(const Config& config);

// The checks alone.
Result<GuestImage> open_guest_image(const std::string& directory);

}  // namespace kiln::runtime
