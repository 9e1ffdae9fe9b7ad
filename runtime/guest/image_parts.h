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

// What the agent loads when it is first needed, by itself or because the kernel asks for it.
struct OptionalModule {
  std::vector<std::string> aliases;
  std::vector<std::string> files;  // in the order of loading, without what is loaded at boot
};

struct ImageParts {
  std::string kernel;       // ELF
  std::string compression;  // of the file that it was unpacked from
  std::string release;
  KernelIdentity source;
  KernelOptions options;
  std::vector<KernelModule> modules;                  // loaded at boot, in this order
  std::map<std::string, OptionalModule> on_demand;    // by name
  std::map<std::string, std::string> optional_files;  // as they are in the archive: `erofs.ko.gz`
  std::string agent;
};

// manifest.json
std::string manifest_of(const ImageParts& parts, const std::string& initramfs);

// The parts of the image in `directory`, if it is whole, was made by this version of kiln and from
// that kernel. Every byte is checked against the manifest's hashes.
std::optional<ImageParts> read_image_parts(const std::string& directory,
                                           const KernelIdentity& source);

}  // namespace kiln::runtime
