// SPDX-License-Identifier: Apache-2.0
// Where a guest's kernel comes from.
#pragma once

#include <optional>
#include <string>

#include "base/error.h"
#include "base/temporary_directory.h"
#include "runtime/guest/image_parts.h"
#include "runtime/guest/modules.h"
#include "runtime/guest/package.h"
#include "runtime/guest/tool.h"

namespace kiln::runtime {

struct KernelInput {
  std::string image;   // a bzImage or an ELF kernel
  std::string config;  // its .config; empty: not known
  std::optional<ModuleTree> modules;
  std::optional<TemporaryDirectory> files;  // what `modules` reads from
  KernelIdentity source;
};

// A package of the distribution (the caller says how it is identified), with boot/vmlinuz-*,
// boot/config-* and lib/modules.
Result<KernelInput> kernel_from_package(const FetchedPackage& package, Progress& progress);

// A file, with `config-RELEASE` beside a `vmlinuz-RELEASE` if it is there. `modules`: a directory,
// or empty.
Result<KernelInput> kernel_from_files(const std::string& kernel, const std::string& modules);

struct KernelSource {
  std::string package = "linux-source";  // Debian's
  std::string fragment;                  // options on top of allnoconfig
  unsigned jobs = 1;
};

// Built from the distribution's kernel source: minutes, gigabytes of temporary files.
Result<KernelInput> kernel_from_source(const FetchedPackage& package, const KernelSource& source,
                                       Progress& progress);

constexpr size_t kMaxKernelFileBytes = size_t{512} << 20;

}  // namespace kiln::runtime
