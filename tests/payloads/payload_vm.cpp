// SPDX-License-Identifier: Apache-2.0
#include "tests/payloads/payload_vm.h"

#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <sstream>
#include <thread>

namespace kiln::vmm {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience{60};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::string vmm_binary() { return environment("KILN_VMM"); }

PayloadReport parse_report(const std::string& console) {
  PayloadReport report;
  std::istringstream lines(console);
  // What the console device has put in front of a line must not hide a failure.
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("ok ")) {
      report.passed.push_back(line.substr(3));
    } else if (const auto at = line.find("FAIL "); at != std::string::npos) {
      report.failed.push_back(line.substr(at));
    } else if (line.ends_with("done")) {
      report.done = true;
    }
  }
  return report;
}

Result<std::unique_ptr<PayloadVm>> PayloadVm::start(const std::string& name, VmConfig config,
                                                    const std::string& arguments) {
  if (config.backend == Backend::kAuto) config.backend = Backend::kKvm;
  config.machine.mem_size_mib = 64;
  config.boot_source.kernel_image_path = environment("KILN_PAYLOADS") + "/payload_" + name;
  config.boot_source.boot_args = "console=ttyS0 " + arguments;
  auto vm = TRY(Vm::launch(vmm_binary(), config, STDERR_FILENO));
  return std::unique_ptr<PayloadVm>(new PayloadVm(std::move(vm)));
}

bool PayloadVm::wait_for(const std::string& text) {
  const auto deadline = Clock::now() + kPatience;
  while (Clock::now() < deadline) {
    const auto ended = vm_->exit();
    if (console().find(text) != std::string::npos) return true;
    if (!ended || *ended) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

Result<VmExit> PayloadVm::wait() {
  pollfd polled{vm_->pidfd(), POLLIN, 0};
  const auto patience = std::chrono::milliseconds(kPatience);
  if (polled.fd >= 0 && poll(&polled, 1, static_cast<int>(patience.count())) <= 0)
    return make_error(ErrorKind::kDeadlineExceeded, "the payload did not end");
  const std::optional<VmExit> ended = TRY(vm_->exit());
  if (!ended) return make_error(ErrorKind::kInternal, "the VM ended and did not end");
  return *ended;
}

}  // namespace kiln::vmm
