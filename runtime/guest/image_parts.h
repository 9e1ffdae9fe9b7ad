// SPDX-License-Identifier: Apache-2.0
// What a guest image is made of, on the way into its files and back.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/guest/kernel_options.h"
#include "runtime/guest/modules.h"

namespace kiln::runtime {

// What identifies a kernel: package and version, or a file's hash.
using KernelIdentity = std::map<std::string, std::string>;

struct ImageParts {
  std::string kernel;       // ELF
  std::string compression;  // of the file that it was unpacked from
  std::string release;
  KernelIdentity source;
  KernelOptions options;
  std::vector<KernelModule> modules;  // loaded at boot, in this order
  // What the agent loads when it is first needed: a module's name, and those to load for it, in
  // order and without the ones above. The modules themselves are in optional_modules.
  std::map<std::string, std::vector<std::string>> on_demand;
  std::vector<KernelModule> optional_modules;
  std::string agent;
};

// manifest.json
std::string manifest_of(const ImageParts& parts, const std::string& initramfs);

// The parts of the image in `directory`, if it is whole, was made by this version of kiln and from
// that kernel. Every byte is checked against the manifest's hashes.
std::optional<ImageParts> read_image_parts(const std::string& directory,
                                           const KernelIdentity& source);

}  // namespace kiln::runtime
