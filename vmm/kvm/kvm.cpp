// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/kvm.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "base/file.h"
#include "base/format.h"
#include "vmm/kvm/kvm_list.h"
#include "vmm/kvm/layout.h"

namespace kiln::vmm {
namespace {

struct Capability {
  int number;
  const char* name;
};
// All of them are there since Linux 4.8.
constexpr Capability kNeeded[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
};

constexpr size_t kMaxCpuidEntries = 256;
constexpr size_t kMaxMsrs = 32;
constexpr size_t kMaxRoutes = 64;

}  // namespace

Result<Kvm> Kvm::open(const char* path) {
  Kvm kvm;
  kvm.fd_ = TRY(open_file(path, O_RDWR));
  const int version = ioctl(kvm.fd_.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION)
    return make_error(ErrorKind::kFailedPrecondition,
                      format("`{}` has API version {}, not {}", path, version, KVM_API_VERSION));
  for (const Capability& needed : kNeeded) {
    if (kvm.extension(needed.number) <= 0)
      return make_error(ErrorKind::kFailedPrecondition, format("`{}` lacks {}", path, needed.name));
  }
  const int size = ioctl(kvm.fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < static_cast<int>(sizeof(kvm_run))) return sys_error("size a vCPU's shared area");
  kvm.vcpu_area_size_ = static_cast<size_t>(size);
  return kvm;
}

int Kvm::extension(int capability) const {
  return ioctl(fd_.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability));
}

Result<std::vector<kvm_cpuid_entry2>> Kvm::supported_cpuid() const {
  KvmList<kvm_cpuid_entry2> list(kMaxCpuidEntries);
  if (ioctl(fd_.get(), kKvmGetSupportedCpuid, list.data()) != 0)
    return sys_error("read the CPUID that KVM supports");
  return list.entries();
}

// ---- KvmVcpu

KvmVcpu::KvmVcpu(KvmVcpu&& other) noexcept
    : fd_(std::move(other.fd_)),
      area_(std::exchange(other.area_, nullptr)),
      area_size_(other.area_size_) {}

KvmVcpu::~KvmVcpu() {
  if (area_ != nullptr) munmap(area_, area_size_);
}

std::span<std::byte> KvmVcpu::port_data() const {
  const uint64_t offset = area_->io.data_offset;
  const uint64_t size = uint64_t{area_->io.size} * area_->io.count;
  // The kernel's own numbers; still, nothing outside the shared area is touched.
  if (offset > area_size_ || size > area_size_ - offset) return {};
  return {reinterpret_cast<std::byte*>(area_) + offset, static_cast<size_t>(size)};
}

Result<void> KvmVcpu::set_cpuid(std::span<const kvm_cpuid_entry2> entries) const {
  if (entries.size() > kMaxCpuidEntries) return invalid_argument("too many CPUID entries");
  KvmList list(entries);
  if (ioctl(fd_.get(), kKvmSetCpuid2, list.data()) != 0) return sys_error("set a vCPU's CPUID");
  return {};
}

Result<void> KvmVcpu::set_registers(const kvm_regs& registers, const kvm_sregs& special) const {
  if (ioctl(fd_.get(), KVM_SET_SREGS, &special) != 0)
    return sys_error("set a vCPU's special registers");
  if (ioctl(fd_.get(), KVM_SET_REGS, &registers) != 0) return sys_error("set a vCPU's registers");
  return {};
}

Result<kvm_sregs> KvmVcpu::special_registers() const {
  kvm_sregs special{};
  if (ioctl(fd_.get(), KVM_GET_SREGS, &special) != 0)
    return sys_error("read a vCPU's special registers");
  return special;
}

Result<void> KvmVcpu::set_msrs(std::span<const kvm_msr_entry> entries) const {
  if (entries.size() > kMaxMsrs) return invalid_argument("too many MSRs");
  KvmList list(entries);
  const int set = ioctl(fd_.get(), kKvmSetMsrs, list.data());
  if (set < 0) return sys_error("set a vCPU's MSRs");
  if (static_cast<size_t>(set) != entries.size())
    return make_error(ErrorKind::kFailedPrecondition,
                      format("KVM refuses MSR {:#x}", entries[static_cast<size_t>(set)].index));
  return {};
}

uint32_t KvmVcpu::tsc_khz() const {
  const int khz = ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
  return khz > 0 ? static_cast<uint32_t>(khz) : 0;
}

// ---- KvmVm

Result<KvmVm> KvmVm::create(const Kvm& kvm, unsigned ioapic_pins) {
  // A signal makes it fail with EINTR.
  UniqueFd fd(retry_eintr([&] { return ioctl(kvm.fd(), KVM_CREATE_VM, 0); }));
  if (!fd) return sys_error("create a virtual machine");
  KvmVm vm(std::move(fd), kvm.vcpu_area_size());
  // Intel's without unrestricted guests want them; elsewhere they are not used.
  const uint64_t identity_map = layout::kIdentityMap;
  if (ioctl(vm.fd_.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map) != 0)
    return sys_error("place KVM's identity map");
  if (ioctl(vm.fd_.get(), KVM_SET_TSS_ADDR, layout::kTss) != 0) return sys_error("place KVM's TSS");
  kvm_enable_cap split{};
  split.cap = KVM_CAP_SPLIT_IRQCHIP;
  split.args[0] = ioapic_pins;
  if (ioctl(vm.fd_.get(), KVM_ENABLE_CAP, &split) != 0) return sys_error("create the local APICs");
  return vm;
}

Result<void> KvmVm::add_memory(const GuestMemory& memory) {
  for (const GuestMemory::Region& region : memory.regions()) {
    kvm_userspace_memory_region slot{};
    slot.slot = next_slot_;
    slot.guest_phys_addr = region.guest_address;
    slot.memory_size = region.size;
    slot.userspace_addr = reinterpret_cast<uint64_t>(region.host);
    if (ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &slot) != 0)
      return sys_error(format("give the guest its memory at {:#x}", region.guest_address));
    ++next_slot_;
  }
  return {};
}

Result<KvmVcpu> KvmVm::create_vcpu(unsigned index) {
  UniqueFd fd(ioctl(fd_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(index)));
  if (!fd) return sys_error(format("create vCPU {}", index));
  void* area = mmap(nullptr, vcpu_area_size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (area == MAP_FAILED) return sys_error(format("map vCPU {}", index));
  return KvmVcpu(std::move(fd), static_cast<kvm_run*>(area), vcpu_area_size_);
}

Result<void> KvmVm::add_ioeventfd(uint64_t address, uint32_t value, int eventfd) {
  kvm_ioeventfd request{};
  request.datamatch = value;
  request.addr = address;
  request.len = sizeof value;
  request.fd = eventfd;
  request.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
  if (ioctl(fd_.get(), KVM_IOEVENTFD, &request) != 0)
    return sys_error(format("watch writes to {:#x}", address));
  return {};
}

Result<void> KvmVm::add_irqfd(unsigned gsi, int eventfd) {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(eventfd);
  request.gsi = gsi;
  if (ioctl(fd_.get(), KVM_IRQFD, &request) != 0)
    return sys_error(format("connect interrupt {}", gsi));
  return {};
}

Result<void> KvmVm::set_routes(std::span<const kvm_irq_routing_entry> routes) {
  if (routes.size() > kMaxRoutes) return invalid_argument("too many interrupt routes");
  KvmList list(routes);
  if (ioctl(fd_.get(), kKvmSetGsiRouting, list.data()) != 0) return sys_error("route interrupts");
  return {};
}

}  // namespace kiln::vmm
