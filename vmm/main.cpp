// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include <cstdio>
#include <string_view>

#include "base/log.h"
#include "vmm/api/control.h"
#include "vmm/run_main.h"
#include "vmm/virtio/fs/fs_main.h"

#ifdef __SANITIZE_THREAD__
// A confined process reads no environment, and cannot start a symbolizer.
extern "C" const char* __tsan_default_options();
extern "C" const char* __tsan_default_options() { return "halt_on_error=1:symbolize=0"; }
#endif

int main(int argc, char** argv) {
  using kiln::vmm::kVmControlFd;
  kiln::log_setup(kiln::LogLevel::kInfo, kiln::LogFormat::kText);
  const std::string_view mode = argc > 1 ? argv[1] : "";
  if (mode == "--version" || mode == "-v") {
    std::printf("kiln-vmm version %s\n", KILN_VERSION);
    return 0;
  }
  if (fcntl(kVmControlFd, F_GETFD) >= 0) {
    if (mode == "run" && argc == 2) return kiln::vmm::run_main();
    if (mode == "fs" && argc == 2) return kiln::vmm::fs_main();
  }
  std::fputs("kiln-vmm is started by kiln, with its sockets; it has nothing to offer by hand\n",
             stderr);
  return 1;
}
