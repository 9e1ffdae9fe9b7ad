// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/initramfs.h"

#include "base/format.h"
#include "runtime/guest/cpio.h"

namespace kiln::runtime {
namespace {

constexpr const char* kOptionalDirectory = "lib/modules/on-demand";

Result<void> add_optional_modules(CpioWriter& cpio, const ImageParts& parts) {
  if (parts.on_demand.empty()) return {};
  cpio.add_directory(kOptionalDirectory, 0755);
  for (const auto& [file, content] : parts.optional_files)
    TRY(cpio.add_file(optional_module_path(file), 0644, content));
  std::string table;
  for (const auto& [name, module] : parts.on_demand) {
    table += name;
    for (const std::string& alias : module.aliases) table += " " + alias;
    table += ":";
    for (const std::string& file : module.files) table += " " + file;
    table += "\n";
  }
  return cpio.add_file(optional_module_path("table"), 0644, table);
}

}  // namespace

std::string module_path(const std::string& name) { return fmt::format("lib/modules/{}.ko", name); }

std::string optional_module_path(const std::string& file) {
  return fmt::format("{}/{}", kOptionalDirectory, file);
}

Result<std::string> make_initramfs(const ImageParts& parts) {
  CpioWriter cpio;
  for (const char* directory : {"dev", "proc", "sys", "run", "tmp", "lib", "lib/modules"})
    cpio.add_directory(directory, 0755);
  // The kernel opens it for the first program before anything is mounted (init/main.c).
  constexpr unsigned kTtyMajor = 5;
  constexpr unsigned kConsoleMinor = 1;
  cpio.add_character_device("dev/console", 0600, kTtyMajor, kConsoleMinor);
  // For the agent, where there is no console.
  constexpr unsigned kMemoryMajor = 1;
  constexpr unsigned kKernelLogMinor = 11;
  cpio.add_character_device("dev/kmsg", 0600, kMemoryMajor, kKernelLogMinor);
  TRY(cpio.add_file(kInitPath, 0755, parts.agent));
  std::string load;
  for (const KernelModule& module : parts.modules) {
    const std::string path = module_path(module.name);
    TRY(cpio.add_file(path, 0644, module.content));
    load += fmt::format("/{}\n", path);
  }
  if (!parts.modules.empty()) TRY(cpio.add_file("lib/modules/load", 0644, load));
  TRY(add_optional_modules(cpio, parts));
  return cpio.finish();
}

}  // namespace kiln::runtime
