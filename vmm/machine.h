// SPDX-License-Identifier: Apache-2.0
// A running machine, whatever runs it. `kiln-vmm run` (run_main.cpp) drives one of these on behalf
// of the VM's owner.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "vmm/api/vm.h"

namespace kiln::vmm {

// Lives on one event loop's thread. Callbacks may not destroy the machine.
class Machine {
 public:
  struct Callbacks {
    std::function<void()> on_started;            // at most once: it executes
    std::function<void(const VmExit&)> on_exit;  // once: nothing of it is left
  };
  using Done = std::function<void(Result<void>)>;

  virtual ~Machine() = default;
  virtual void pause(Done done) = 0;
  virtual void resume(Done done) = 0;
  // At once, without asking the guest; on_exit follows.
  virtual void stop() = 0;
  virtual std::string console() const = 0;  // the last of it; guest-controlled
  virtual Json metrics() const = 0;
};

}  // namespace kiln::vmm
