// SPDX-License-Identifier: Apache-2.0
// The I/O APIC (Intel's 82093AA datasheet) of a machine whose local APICs are the kernel's. All of
// its interrupts are edge-triggered: virtio-mmio's, as the DSDT says.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "base/error.h"

namespace kiln::vmm {

// vCPU threads, one register access at a time. Everything written to it is guest-controlled.
class IoApic {
 public:
  // `route` gets every pin that is not masked, as a message to the local APICs; called again only
  // when one of them has changed. A failure is for its callee to keep.
  using Route = std::function<void(std::span<const kvm_irq_routing_entry>)>;

  IoApic(unsigned pins, Route route) : entries_(pins, kMasked), route_(std::move(route)) {}

  // `offset`: into its page.
  uint32_t read(uint64_t offset);
  void write(uint64_t offset, uint32_t value);

 private:
  static constexpr uint64_t kMasked = uint64_t{1} << 16;

  uint32_t read_register() const;
  void write_entry(unsigned pin, bool high, uint32_t value);
  void update_routes();

  std::mutex mutex_;
  uint32_t selected_ = 0;
  uint32_t id_ = 0;
  std::vector<uint64_t> entries_;
  const Route route_;
};

}  // namespace kiln::vmm
