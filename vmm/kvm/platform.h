// SPDX-License-Identifier: Apache-2.0
// Everything of the built-in machine that a vCPU can reach outside of RAM, but for what KVM itself
// emulates (the local APICs).
#pragma once

#include <memory>
#include <vector>

#include "vmm/kvm/bus.h"
#include "vmm/kvm/ioapic.h"
#include "vmm/kvm/serial.h"
#include "vmm/virtio/mmio_transport.h"

namespace kiln::vmm {

class Platform : public Bus {
 public:
  // `slots`: borrowed; the device at slot i answers at layout::slot_address(i).
  Platform(IoApic& ioapic, Serial& serial, std::vector<MmioTransport*> slots)
      : ioapic_(ioapic), serial_(serial), slots_(std::move(slots)) {}

  void read_memory(uint64_t address, std::span<std::byte> out) override;
  void write_memory(uint64_t address, std::span<const std::byte> bytes) override;
  void read_port(uint16_t port, std::span<std::byte> out) override;
  std::optional<VmExit> write_port(uint16_t port, std::span<const std::byte> bytes) override;

 private:
  MmioTransport* slot_at(uint64_t address) const;

  IoApic& ioapic_;
  Serial& serial_;
  const std::vector<MmioTransport*> slots_;
};

}  // namespace kiln::vmm
