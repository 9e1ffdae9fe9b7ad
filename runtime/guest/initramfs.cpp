// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest/initramfs.h"

#include "base/format.h"
#include "runtime/guest/cpio.h"

namespace kiln::runtime {

std::string module_path(const std::string& name) { return fmt::format("lib/modules/{}.ko", name); }

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
  for (const KernelModule& module : parts.optional_modules)
    TRY(cpio.add_file(module_path(module.name), 0644, module.content));
  std::string on_demand;
  for (const auto& [name, modules] : parts.on_demand) {
    on_demand += name + ":";
    for (const std::string& module : modules) on_demand += fmt::format(" /{}", module_path(module));
    on_demand += "\n";
  }
  if (!on_demand.empty()) TRY(cpio.add_file("lib/modules/on-demand", 0644, on_demand));
  return cpio.finish();
}

}  // namespace kiln::runtime
