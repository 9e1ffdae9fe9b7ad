// SPDX-License-Identifier: Apache-2.0
// The kernel's side of a virtual machine (Linux's Documentation/virt/kvm/api.rst), as owned
// objects. Nothing here knows what the machine looks like.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "vmm/memory/guest_memory.h"

namespace kiln::vmm {

// /dev/kvm.
class Kvm {
 public:
  // `path`: for the error. Fails where something that the built-in machine needs is missing, and
  // names it.
  static Result<Kvm> open(const char* path = "/dev/kvm");

  int fd() const { return fd_.get(); }
  int extension(int capability) const;  // KVM_CHECK_EXTENSION
  Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
  size_t vcpu_area_size() const { return vcpu_area_size_; }

 private:
  UniqueFd fd_;
  size_t vcpu_area_size_ = 0;
};

// One vCPU: its descriptor and the page that it shares with the kernel.
class KvmVcpu {
 public:
  KvmVcpu(KvmVcpu&& other) noexcept;
  KvmVcpu& operator=(KvmVcpu&&) = delete;
  ~KvmVcpu();

  int fd() const { return fd_.get(); }
  kvm_run& area() const { return *area_; }
  // The bytes of a port access that made KVM_RUN return.
  std::span<std::byte> port_data() const;

  Result<void> set_cpuid(std::span<const kvm_cpuid_entry2> entries) const;
  Result<void> set_registers(const kvm_regs& registers, const kvm_sregs& special) const;
  Result<kvm_sregs> special_registers() const;
  Result<void> set_msrs(std::span<const kvm_msr_entry> entries) const;
  uint32_t tsc_khz() const;  // 0: unknown

 private:
  friend class KvmVm;
  KvmVcpu(UniqueFd fd, kvm_run* area, size_t area_size)
      : fd_(std::move(fd)), area_(area), area_size_(area_size) {}
  UniqueFd fd_;
  kvm_run* area_;
  size_t area_size_;
};

class KvmVm {
 public:
  // With a local APIC for each vCPU in the kernel, and the I/O APIC, of `ioapic_pins`, outside.
  static Result<KvmVm> create(const Kvm& kvm, unsigned ioapic_pins);

  Result<void> add_memory(const GuestMemory& memory);
  Result<KvmVcpu> create_vcpu(unsigned index);
  // A 32-bit write of `value` to `address` signals `eventfd` instead of returning from KVM_RUN.
  Result<void> add_ioeventfd(uint64_t address, uint32_t value, int eventfd);
  // A signal on `eventfd` raises `gsi`, as its route says.
  Result<void> add_irqfd(unsigned gsi, int eventfd);
  Result<void> set_routes(std::span<const kvm_irq_routing_entry> routes);

 private:
  KvmVm(UniqueFd fd, size_t vcpu_area_size) : fd_(std::move(fd)), vcpu_area_size_(vcpu_area_size) {}
  UniqueFd fd_;
  size_t vcpu_area_size_;
  uint32_t next_slot_ = 0;
};

}  // namespace kiln::vmm
