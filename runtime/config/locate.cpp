// SPDX-License-Identifier: Apache-2.0
#include "runtime/config/locate.h"

#include <unistd.h>

#include "base/format.h"
#include "base/process.h"

namespace kiln::runtime {

Result<std::vector<std::string>> program_directories() {
  const std::string own = TRY(own_executable());
  return std::vector<std::string>{own.substr(0, own.rfind('/')), KILN_LIBEXEC_DIR,
                                  KILN_LIBRARY_DIR};
}

Result<std::string> find_vmm_binary(const Config& config) {
  if (!config.vmm_binary.empty()) {
    if (access(config.vmm_binary.c_str(), X_OK) != 0)
      return sys_error(fmt::format("find `vmm` of the configuration, `{}`", config.vmm_binary));
    return config.vmm_binary;
  }
  std::string looked_in;
  for (const std::string& directory : TRY(program_directories())) {
    std::string path = directory + "/kiln-vmm";
    if (access(path.c_str(), X_OK) == 0) return path;
    looked_in += fmt::format("{}`{}`", looked_in.empty() ? "" : " or ", directory);
  }
  return make_error(ErrorKind::kNotFound, fmt::format("find `kiln-vmm`: not in {}", looked_in));
}

}  // namespace kiln::runtime
