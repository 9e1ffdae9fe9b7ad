// SPDX-License-Identifier: Apache-2.0
// linux.resources as the files of the container's cgroup on the host. Pure: no file is touched.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "oci/spec.h"

namespace kiln::runtime {

// What lies between the container's memory limit and the host's.
struct HostMachine {
  uint64_t memory_mib = 0;    // the VM's RAM, guest kernel and agent included
  uint64_t overhead_mib = 0;  // of the host's processes: machine_overhead_mib()
};

// How the machine is run; the numbers are explained in docs/limitations.md.
enum class MachineKind { kKvm, kQemuKvm, kQemuTcg };
// Host memory that a machine's processes need beside its RAM: monitor, VMM, file-system server, the
// kernel's page tables, and the inodes that the file-system server pins for the guest.
uint64_t machine_overhead_mib(MachineKind kind, unsigned vcpus, uint64_t memory_mib);

// One write(2).
struct HostLimit {
  std::string controller;  // the v1 hierarchy, or the v2 controller
  std::string file;
  std::string value;
  std::string fallback_file;  // in its place, when it is absent; empty: none
  std::string fallback_value;
  bool may_be_absent = false;  // a host without that file behaves as the value asks for
  bool throttles = false;      // a CPU quota: it would slow the boot down
};

// In the order in which they are to be written. What has no counterpart there is an error that
// names the member. The number of processes, huge pages and `unified` are the guest's alone.
Result<std::vector<HostLimit>> host_limits(const oci::Resources& resources,
                                           const HostMachine& machine, bool unified);

// The same with every CPU quota lifted.
std::vector<HostLimit> without_throttles(const std::vector<HostLimit>& limits);

}  // namespace kiln::runtime
