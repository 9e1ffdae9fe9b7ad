// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/event_loop.h"
#include "vmm/api/vm_config.h"
#include "vmm/machine.h"
#include "vmm/qemu/command_line.h"

namespace kiln::vmm {

// Spawns QEMU, hosts the guest's vsock for it, supervises it. QEMU dies with the calling thread.
// `config.fs` descriptors are borrowed. `started`: taken early, so that measuring the clock does
// not have to wait.
Result<std::unique_ptr<Machine>> start_qemu(EventLoop& loop, const VmConfig& config,
                                            const std::string& accel, const TscSample& started,
                                            Machine::Callbacks callbacks);

}  // namespace kiln::vmm
