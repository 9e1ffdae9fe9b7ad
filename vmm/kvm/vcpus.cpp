// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/vcpus.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <csignal>

#include "base/format.h"

namespace kiln::vmm {
namespace {

// Brings a thread out of KVM_RUN. A signal that comes just before it makes it return at once, by
// the flag in the area that it shares with the kernel.
constexpr int kKickSignal = SIGUSR1;
constexpr size_t kStackBytes = 256U << 10;

thread_local kvm_run* current_area = nullptr;

void handle_kick(int) {
  if (current_area != nullptr)
    __atomic_store_n(&current_area->immediate_exit, uint8_t{1}, __ATOMIC_RELAXED);
}

Result<void> catch_kicks() {
  struct sigaction action {};
  action.sa_handler = handle_kick;
  sigemptyset(&action.sa_mask);
  if (sigaction(kKickSignal, &action, nullptr) != 0) return sys_error("catch a signal");
  return {};
}

VmExit crashed(std::string why) { return {VmExit::Reason::kCrashed, std::move(why)}; }

std::string internal_error(const kvm_run& area) {
  if (area.internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
    return "KVM cannot emulate an instruction of the guest's";
  return format("KVM has failed: internal error {}", area.internal.suberror);
}

}  // namespace

Result<std::unique_ptr<Vcpus>> Vcpus::create(std::vector<KvmVcpu> vcpus, Bus& bus,
                                             Callbacks callbacks) {
  TRY(catch_kicks());
  std::unique_ptr<Vcpus> set(new Vcpus(bus, std::move(callbacks)));
  for (KvmVcpu& vcpu : vcpus) set->vcpus_.push_back(std::make_unique<Vcpu>(std::move(vcpu)));
  for (const auto& vcpu : set->vcpus_) TRY(set->start_thread(*vcpu));
  return set;
}

Vcpus::~Vcpus() { stop(); }

Result<void> Vcpus::start_thread(Vcpu& vcpu) {
  struct Start {
    Vcpus* self;
    Vcpu* vcpu;
  };
  auto start = std::make_unique<Start>(Start{this, &vcpu});
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  // The usual 8 MiB of address space for each of 64 would be for nothing.
  pthread_attr_setstacksize(&attributes, kStackBytes);
  const int failed = pthread_create(
      &vcpu.thread, &attributes,
      [](void* argument) -> void* {
        const std::unique_ptr<Start> mine(static_cast<Start*>(argument));
        mine->self->thread_main(*mine->vcpu);
        return nullptr;
      },
      start.get());
  pthread_attr_destroy(&attributes);
  if (failed != 0) return sys_error("start a vCPU's thread", failed);
  start.release();  // the thread's now
  vcpu.has_thread = true;
  return {};
}

void Vcpus::thread_main(Vcpu& vcpu) {
  // For `top -H` and the like, before the filter forbids it.
  const size_t index = static_cast<size_t>(
      std::find_if(vcpus_.begin(), vcpus_.end(),
                   [&](const auto& candidate) { return candidate.get() == &vcpu; }) -
      vcpus_.begin());
  pthread_setname_np(pthread_self(), format("vcpu{}", index).c_str());
  current_area = &vcpu.vcpu.area();
  const auto started = callbacks_.on_thread_start ? callbacks_.on_thread_start() : Result<void>();
  std::optional<VmExit> end;
  if (!started) end = crashed(started.error().message);
  while (!end && wait_for_wish()) end = run_once(vcpu);
  if (end) callbacks_.on_end(*end);
  const std::lock_guard lock(mutex_);
  ++waiting_;
  changed_.notify_all();
}

// False: stop.
bool Vcpus::wait_for_wish() {
  if (wish_ == Wish::kRun) return true;
  std::unique_lock lock(mutex_);
  ++waiting_;
  changed_.notify_all();
  changed_.wait(lock, [this] { return wish_ != Wish::kPause; });
  --waiting_;
  return wish_ == Wish::kRun;
}

std::optional<VmExit> Vcpus::run_once(Vcpu& vcpu) {
  kvm_run& area = vcpu.vcpu.area();
  if (ioctl(vcpu.vcpu.fd(), KVM_RUN, 0) == 0) return handle_exit(vcpu);
  if (errno != EINTR && errno != EAGAIN)
    return crashed(format("KVM cannot run the guest: {}", errno_text(errno)));
  // EAGAIN: a vCPU that was waiting for its start.
  __atomic_store_n(&area.immediate_exit, uint8_t{0}, __ATOMIC_RELAXED);
  vcpu.exits[static_cast<size_t>(ExitKind::kInterrupted)].fetch_add(1, std::memory_order_relaxed);
  return std::nullopt;
}

std::optional<VmExit> Vcpus::handle_exit(Vcpu& vcpu) {
  kvm_run& area = vcpu.vcpu.area();
  const auto count = [&](ExitKind kind) {
    vcpu.exits[static_cast<size_t>(kind)].fetch_add(1, std::memory_order_relaxed);
  };
  switch (area.exit_reason) {
    case KVM_EXIT_IO:
      count(area.io.direction == KVM_EXIT_IO_IN ? ExitKind::kPortIn : ExitKind::kPortOut);
      return handle_port(vcpu.vcpu);
    case KVM_EXIT_MMIO: {
      count(area.mmio.is_write != 0 ? ExitKind::kMemoryWrite : ExitKind::kMemoryRead);
      const size_t size = std::min<size_t>(area.mmio.len, sizeof area.mmio.data);
      const auto data = std::as_writable_bytes(std::span(area.mmio.data).first(size));
      if (area.mmio.is_write != 0) {
        bus_.write_memory(area.mmio.phys_addr, data);
      } else {
        bus_.read_memory(area.mmio.phys_addr, data);
      }
      return std::nullopt;
    }
    default:
      break;
  }
  count(ExitKind::kOther);
  switch (area.exit_reason) {
    // Local APICs are the kernel's: a vCPU that halts stays there. Interrupts that wait for an end
    // are level-triggered, and there are none.
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_IOAPIC_EOI:
    case KVM_EXIT_INTR:
      return std::nullopt;
    case KVM_EXIT_SHUTDOWN:
      return VmExit{VmExit::Reason::kReset, "the guest has reset itself (triple fault)"};
    case KVM_EXIT_INTERNAL_ERROR:
      return crashed(internal_error(area));
    case KVM_EXIT_FAIL_ENTRY:
      return crashed(format("the CPU refuses the guest's state: {:#x}",
                            uint64_t{area.fail_entry.hardware_entry_failure_reason}));
    default:
      return crashed(format("KVM has left the guest for reason {}", area.exit_reason));
  }
}

std::optional<VmExit> Vcpus::handle_port(const KvmVcpu& vcpu) {
  const kvm_run& area = vcpu.area();
  std::span<std::byte> data = vcpu.port_data();
  const size_t width = area.io.size;
  if (width == 0) return std::nullopt;
  for (; data.size() >= width; data = data.subspan(width)) {
    if (area.io.direction == KVM_EXIT_IO_IN) {
      bus_.read_port(area.io.port, data.first(width));
    } else if (auto end = bus_.write_port(area.io.port, data.first(width))) {
      return end;
    }
  }
  return std::nullopt;
}

void Vcpus::wish(Wish wish) {
  {
    const std::lock_guard lock(mutex_);
    if (wish_ != Wish::kStop) wish_ = wish;
  }
  changed_.notify_all();
  if (wish != Wish::kRun) kick_all();
}

void Vcpus::kick_all() {
  for (const auto& vcpu : vcpus_)
    if (vcpu->has_thread) pthread_kill(vcpu->thread, kKickSignal);
}

void Vcpus::resume() {
  // The guest's clock has stood still: its watchdogs are told. Not every kernel of it has a clock
  // of KVM's, and then this fails.
  for (const auto& vcpu : vcpus_) ioctl(vcpu->vcpu.fd(), KVM_KVMCLOCK_CTRL, 0);
  wish(Wish::kRun);
}

void Vcpus::pause() {
  wish(Wish::kPause);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return waiting_ == vcpus_.size() || wish_ == Wish::kStop; });
}

void Vcpus::stop() {
  wish(Wish::kStop);
  for (const auto& vcpu : vcpus_) {
    if (std::exchange(vcpu->has_thread, false)) pthread_join(vcpu->thread, nullptr);
  }
}

ExitCounts Vcpus::exits() const {
  ExitCounts sum{};
  for (const auto& vcpu : vcpus_)
    for (size_t kind = 0; kind < sum.size(); ++kind)
      sum[kind] += vcpu->exits[kind].load(std::memory_order_relaxed);
  return sum;
}

}  // namespace kiln::vmm
