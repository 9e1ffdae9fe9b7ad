// SPDX-License-Identifier: Apache-2.0
// A running VM as its owner sees it: a kiln-vmm process and its control socket. Backends differ
// only inside kiln-vmm.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/process.h"
#include "vmm/api/vm_config.h"

namespace kiln::vmm {

struct VmExit {
  enum class Reason { kPoweroff, kReset, kPanic, kStopped, kCrashed };
  Reason reason = Reason::kCrashed;
  std::string detail;  // one line for a person: "qemu was killed by signal 9"
};

// Owned by one thread. kiln-vmm and all of its children die with the thread that launched it.
class Vm {
 public:
  // Starts `vmm_binary` (kiln-vmm) and boots. Returns when the machine has been started, not when
  // the guest is up. `log_fd`: where kiln-vmm logs (borrowed; -1: standard error).
  static Result<std::unique_ptr<Vm>> launch(const std::string& vmm_binary, const VmConfig& config,
                                            int log_fd);
  ~Vm();  // kills and reaps what still runs

  pid_t pid() const;
  int pidfd() const;  // readable once kiln-vmm has ended; then call exit()
  // Non-blocking; nullopt while it runs. Reaps.
  Result<std::optional<VmExit>> exit();

  // Each waits for kiln-vmm's answer, at most 10 s.
  Result<void> start();  // of a machine whose VmConfig::start was false
  Result<void> pause();
  Result<void> resume();
  Result<void> stop();  // at once, without asking the guest; returns when everything is gone
  // The last bytes that the guest wrote to its console, at most 64 KiB; guest-controlled. Works
  // after exit too.
  Result<std::string> console();
  Result<Json> metrics();
  // The last metrics() of a machine that has ended by itself; null where it said none.
  const Json& last_metrics() const;

  // On the kvm backend, into a spare slot; the descriptor is borrowed. kResourceExhausted without
  // one. The guest finds the device when its driver is bound to the slot (again).
  Result<void> attach_drive(const DriveConfig& drive);
  Result<void> attach_network_interface(const NetworkInterfaceConfig& interface);
  Result<void> detach(const std::string& id);  // the guest should have unbound its driver
  Result<void> set_balloon(uint32_t amount_mib);

 private:
  struct Impl;
  explicit Vm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Whether hardware virtualization is behind /dev/kvm, and what auto picks: for `kiln check` too.
struct BackendChoice {
  Backend backend;         // never kAuto
  std::string qemu_accel;  // "kvm" or "tcg" for kQemu, empty for kKvm
  bool kvm_device_present = false;
  bool hardware_virtualization = false;  // vmx or svm in /proc/cpuinfo and KVM's API answers
  std::string reason;                    // one line
};
Result<BackendChoice> choose_backend(Backend wanted, const std::string& wanted_accel);

}  // namespace kiln::vmm
