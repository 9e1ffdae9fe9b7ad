// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "vmm/api/vm.h"

namespace kiln::vmm {

// What the vCPUs' accesses reach outside of RAM. Called on vCPU threads, several at once;
// addresses, widths and values are guest-controlled. Nobody answers: reads give all ones, writes
// are lost.
class Bus {
 public:
  virtual ~Bus() = default;
  virtual void read_memory(uint64_t address, std::span<std::byte> out) = 0;
  virtual void write_memory(uint64_t address, std::span<const std::byte> bytes) = 0;
  virtual void read_port(uint16_t port, std::span<std::byte> out) = 0;
  // A result: the guest has ended the machine.
  virtual std::optional<VmExit> write_port(uint16_t port, std::span<const std::byte> bytes) = 0;
};

}  // namespace kiln::vmm
