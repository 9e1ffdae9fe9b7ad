// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/event_loop.h"
#include "vmm/api/vm_config.h"
#include "vmm/kvm/kvm_machine.h"

namespace kiln::vmm {

// `kiln-vmm run` with the built-in machine: opens what `config` names, gives up everything else
// that this process could do, and makes the machine with its devices. The process has one thread
// until then. Nothing runs before start(). Descriptors in `config` are taken over.
Result<std::unique_ptr<KvmMachine>> assemble_kvm(EventLoop& loop, const VmConfig& config,
                                                 const TimePoint& process_start,
                                                 Machine::Callbacks callbacks);

// While it runs, into one of its spare slots. The descriptor is taken over.
Result<void> attach_drive(KvmMachine& machine, const DriveConfig& drive);
Result<void> attach_network_interface(KvmMachine& machine, const NetworkInterfaceConfig& interface);
// What is to be taken from the guest. kNotFound without a balloon.
Result<void> set_balloon(KvmMachine& machine, uint32_t amount_mib);

}  // namespace kiln::vmm
