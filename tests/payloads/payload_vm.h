// SPDX-License-Identifier: Apache-2.0
// Boots a payload on kiln-vmm, as any owner of a VM does, and reads what it says.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "vmm/api/vm.h"

namespace kiln::vmm {

// What a payload has printed so far.
struct PayloadReport {
  std::vector<std::string> passed;
  std::vector<std::string> failed;  // whole lines
  bool done = false;
};
PayloadReport parse_report(const std::string& console);

class PayloadVm {
 public:
  // Payload `name` of $KILN_PAYLOADS on $KILN_VMM. `config` is what it needs beside a kernel;
  // `arguments` are for the payload.
  static Result<std::unique_ptr<PayloadVm>> start(const std::string& name, VmConfig config,
                                                  const std::string& arguments = "");

  Vm& vm() { return *vm_; }
  // Waits until the console holds `text`. False when it does not, or the VM ends without it.
  bool wait_for(const std::string& text);
  // Waits for the end of the VM. kDeadlineExceeded after a minute.
  Result<VmExit> wait();
  std::string console() { return vm_->console().value_or(""); }

 private:
  explicit PayloadVm(std::unique_ptr<Vm> vm) : vm_(std::move(vm)) {}
  std::unique_ptr<Vm> vm_;
};

// The path of kiln-vmm; empty where the environment names none.
std::string vmm_binary();

}  // namespace kiln::vmm
