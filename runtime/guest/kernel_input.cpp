// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/kernel_input.h"

#include <filesystem>

#include "base/file.h"
#include "base/format.h"
#include "runtime/guest/sha256.h"

namespace kiln::runtime {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = 8U << 20;
constexpr std::string_view kKernelPrefix = "vmlinuz-";

// Package files belong to nobody's account here: the temporary directory is where we may write.
Result<std::string> temporary_parent() {
  std::error_code failed;
  std::string path = fs::temp_directory_path(failed);
  if (failed) return sys_error("find a directory for temporary files (TMPDIR)", failed.value());
  return path;
}

Result<std::string> only_kernel_in(const std::string& directory) {
  std::string found;
  std::error_code failed;
  for (fs::directory_iterator entry(directory, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    if (!entry->path().filename().string().starts_with(kKernelPrefix)) continue;
    if (!found.empty())
      return make_error(ErrorKind::kFailedPrecondition, "there are two kernels in the package");
    found = entry->path();
  }
  if (found.empty())
    return make_error(ErrorKind::kNotFound, "there is no `boot/vmlinuz-*` in the package");
  return found;
}

// Beside the kernel, as distributions put it; empty without one.
Result<std::string> config_beside(const std::string& kernel) {
  const fs::path path(kernel);
  const std::string name = path.filename();
  if (!name.starts_with(kKernelPrefix)) return std::string();
  const fs::path config = path.parent_path() / ("config-" + name.substr(kKernelPrefix.size()));
  auto text = read_file(config, kMaxConfigBytes);
  if (!text && text.error().sys_errno == ENOENT) return std::string();
  return text;
}

}  // namespace

Result<KernelInput> kernel_from_package(const FetchedPackage& package, Progress& progress) {
  const std::string parent = TRY(temporary_parent());
  TemporaryDirectory files = TRY(TemporaryDirectory::create(parent, "kiln-guest-"));
  TRY(unpack_package(package.path, files.path(), progress));
  const std::string kernel = TRY(wrap(only_kernel_in(files.path() + "/boot"), package.name));
  KernelInput out = TRY(kernel_from_files(kernel, files.path()));
  out.files.emplace(std::move(files));
  return out;
}

Result<KernelInput> kernel_from_files(const std::string& kernel, const std::string& modules) {
  KernelInput out;
  out.image = TRY(read_file(kernel, kMaxKernelFileBytes));
  out.config = TRY(config_beside(kernel));
  if (!modules.empty()) out.modules = TRY(ModuleTree::open(modules));
  out.source = {{"file", fs::path(kernel).filename()}, {"sha256", sha256_hex(out.image)}};
  return out;
}

}  // namespace kiln::runtime
