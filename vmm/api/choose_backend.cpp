// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cstdlib>

#include "base/file.h"
#include "base/format.h"
#include "vmm/api/vm.h"

namespace kiln::vmm {
namespace {

bool cpu_has_virtualization() {
  const auto cpuinfo = read_file("/proc/cpuinfo", 8U << 20);
  if (!cpuinfo) return false;
  // One CPU is enough to know: all of a host's have the same flags.
  const size_t flags = cpuinfo->find("\nflags");
  if (flags == std::string::npos) return false;
  const std::string line = cpuinfo->substr(flags + 1, cpuinfo->find('\n', flags + 1) - flags) + " ";
  return line.find(" vmx ") != std::string::npos || line.find(" svm ") != std::string::npos ||
         line.find(" vmx\n") != std::string::npos || line.find(" svm\n") != std::string::npos;
}

// For test guests that need no hardware, and for nobody else: what they run on is emulated.
bool emulation_will_do() { return std::getenv("KILN_EMULATED_KVM") != nullptr; }

// What stands between us and a guest on /dev/kvm; empty when nothing does.
std::string obstacle_to_kvm(Backend wanted, BackendChoice& found) {
  const auto device = open_file("/dev/kvm", O_RDWR);
  if (!device) {
    if (device.error().sys_errno == ENOENT) return "there is no /dev/kvm";
    found.kvm_device_present = true;
    return device.error().message;
  }
  found.kvm_device_present = true;
  if (ioctl(device->get(), KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
    return "/dev/kvm has another API version than 12";
  // Such hosts emulate the guest's kernel mode and never boot Linux.
  if (!cpu_has_virtualization()) {
    if (wanted == Backend::kKvm && emulation_will_do()) return "";
    return "/dev/kvm has no hardware virtualization behind it (neither vmx nor svm in "
           "/proc/cpuinfo)";
  }
  found.hardware_virtualization = true;
  return "";
}

}  // namespace

Result<BackendChoice> choose_backend(Backend wanted, const std::string& wanted_accel) {
  if (!wanted_accel.empty() && wanted_accel != "kvm" && wanted_accel != "tcg")
    return invalid_argument(fmt::format("unknown accelerator `{}`: kvm or tcg", wanted_accel));
  BackendChoice choice{};
  const std::string obstacle = obstacle_to_kvm(wanted, choice);
  if (wanted == Backend::kKvm && !obstacle.empty())
    return make_error(ErrorKind::kFailedPrecondition, fmt::format("backend kvm: {}", obstacle));
  if (wanted_accel == "kvm" && !obstacle.empty())
    return make_error(ErrorKind::kFailedPrecondition, fmt::format("accelerator kvm: {}", obstacle));
  // Who names an accelerator of QEMU's wants QEMU.
  const bool built_in = wanted == Backend::kKvm ||
                        (wanted == Backend::kAuto && obstacle.empty() && wanted_accel.empty());
  choice.backend = built_in ? Backend::kKvm : Backend::kQemu;
  if (!built_in)
    choice.qemu_accel = !wanted_accel.empty() ? wanted_accel : obstacle.empty() ? "kvm" : "tcg";
  if (built_in) {
    choice.reason = "kvm: /dev/kvm has hardware virtualization behind it";
  } else if (!wanted_accel.empty()) {
    choice.reason = fmt::format("qemu with {}, as asked", wanted_accel);
  } else if (obstacle.empty()) {
    choice.reason = "qemu with kvm: /dev/kvm has hardware virtualization behind it";
  } else {
    choice.reason = fmt::format("qemu with tcg (emulation, slow): {}", obstacle);
  }
  return choice;
}

}  // namespace kiln::vmm
