// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/kvm_machine.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/initramfs.h"
#include "vmm/boot/pvh.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/layout.h"

namespace kiln::vmm {
namespace {

using Thread = KvmMachineOptions::Thread;

// Intel SDM vol. 4; the state in which a PC's firmware leaves them.
constexpr uint32_t kMsrMiscEnable = 0x1a0;
constexpr uint64_t kFastStrings = 1;
constexpr uint32_t kMsrMtrrDefaultType = 0x2ff;
constexpr uint64_t kMtrrEnabledWriteBack = (uint64_t{1} << 11) | 6;

void signal(int fd) {
  const uint64_t one = 1;
  static_cast<void>(retry_eintr([&] { return ::write(fd, &one, sizeof one); }));
}

}  // namespace

KvmMachine::KvmMachine(EventLoop& loop, KvmMachineOptions options, Stages stages,
                       Callbacks callbacks)
    : loop_(loop),
      options_(std::move(options)),
      callbacks_(std::move(callbacks)),
      stages_(std::move(stages)) {}

Result<std::unique_ptr<KvmMachine>> KvmMachine::create(EventLoop& loop, const Kvm& kvm,
                                                       KvmMachineOptions options, Stages stages,
                                                       Callbacks callbacks) {
  if (options.slots > layout::kMaxSlots)
    return invalid_argument(fmt::format("{} devices are too many", options.slots));
  std::unique_ptr<KvmMachine> machine(
      new KvmMachine(loop, std::move(options), std::move(stages), std::move(callbacks)));
  TRY(machine->set_up(kvm));
  return machine;
}

KvmMachine::~KvmMachine() { finish(); }

Result<void> KvmMachine::set_up(const Kvm& kvm) {
  tasks_ = TRY(TaskQueue::create(loop_));
  device_thread_ = TRY(DeviceThread::start());
  stages_.reached("device thread");
  const unsigned pins = layout::ioapic_pins(options_.slots, options_.serial_console);
  vm_ = TRY(KvmVm::create(kvm, pins));
  stages_.reached("kvm");
  TRY(map_ram(*memory_, options_.ram));
  stages_.reached("memory");
  TRY(load_guest());
  stages_.reached("kernel");
  TRY(vm_->add_memory(*memory_));
  ioapic_.emplace(pins, [this](std::span<const kvm_irq_routing_entry> routes) {
    // On a vCPU's thread; a guest without its interrupts notices by itself.
    if (const auto done = vm_->set_routes(routes); !done)
      log_error("kvm: {}", done.error().message);
  });
  serial_interrupt_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!serial_interrupt_) return sys_error("create an eventfd");
  if (options_.serial_console) TRY(vm_->add_irqfd(layout::kSerialGsi, serial_interrupt_.get()));
  serial_.emplace([this](std::string_view text) { append_console(text); },
                  [this] { signal(serial_interrupt_.get()); });
  TRY(make_slots());
  std::vector<KvmVcpu> vcpus = TRY(make_vcpus(kvm));
  Vcpus::Callbacks callbacks;
  if (options_.confine_thread)
    callbacks.on_thread_start = [this] { return options_.confine_thread(Thread::kVcpu); };
  callbacks.on_end = [this](const VmExit& exit) { tasks_->post([this, exit] { ended(exit); }); };
  vcpus_ = TRY(Vcpus::create(std::move(vcpus), *platform_, std::move(callbacks)));
  stages_.reached("vcpus");
  return {};
}

Result<void> KvmMachine::load_guest() {
  const KernelImage kernel = TRY(wrap(KernelImage::read(options_.kernel.get()), "read the kernel"));
  // Memory that is ours alone has huge pages, and private pages of a file would take their place:
  // in the lab the page faults of a mapped kernel cost a boot 34 ms, copying it 10. Memory that is
  // shared has none, and what can be mapped there is.
  const KernelMapping mapping = options_.ram.backing == RamOptions::Backing::kAnonymous
                                    ? KernelMapping::kNone
                                    : largest_mapping(*memory_);
  placed_ = TRY(wrap(kernel.load(*memory_, mapping), "load the kernel"));
  entry_ = kernel.entry();
  if (options_.initramfs) {
    const Initramfs initramfs = TRY(wrap(
        load_initramfs(options_.initramfs.get(), *memory_, kernel.end()), "load the initramfs"));
    initramfs_address_ = initramfs.address;
    initramfs_size_ = initramfs.size;
  }
  return {};
}

Result<void> KvmMachine::make_slots() {
  std::vector<MmioTransport*> transports;
  for (unsigned i = 0; i < options_.slots; ++i) {
    auto transport =
        TRY(MmioTransport::create(device_thread_->loop(), device_thread_->tasks(), memory_));
    TRY(vm_->add_irqfd(layout::slot_gsi(i), transport->interrupt_fd()));
    transports.push_back(transport.get());
    slots_.push_back({"", std::move(transport), nullptr});
  }
  platform_.emplace(*ioapic_, *serial_, std::move(transports));
  return {};
}

Result<std::vector<KvmVcpu>> KvmMachine::make_vcpus(const Kvm& kvm) {
  const std::vector<kvm_cpuid_entry2> supported = TRY(kvm.supported_cpuid());
  CpuidOptions cpuid;
  cpuid.vcpus = options_.vcpus;
  cpuid.nested = options_.nested;
  cpuid.tsc_deadline = kvm.extension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  const std::array<kvm_msr_entry, 2> msrs = {{
      {kMsrMiscEnable, 0, kFastStrings},
      {kMsrMtrrDefaultType, 0, kMtrrEnabledWriteBack},
  }};
  std::vector<KvmVcpu> vcpus;
  for (unsigned i = 0; i < options_.vcpus; ++i) {
    KvmVcpu vcpu = TRY(vm_->create_vcpu(i));
    cpuid.tsc_khz = vcpu.tsc_khz();
    TRY(vcpu.set_cpuid(guest_cpuid(supported, i, cpuid)));
    TRY(vcpu.set_msrs(msrs));
    if (i == 0) {
      kvm_regs registers{};
      kvm_sregs special = TRY(vcpu.special_registers());
      set_pvh_state(entry_, registers, special);
      TRY(vcpu.set_registers(registers, special));
    }
    vcpus.push_back(std::move(vcpu));
  }
  return vcpus;
}

// ---- devices

KvmMachine::Slot* KvmMachine::find(const std::string& id) {
  const auto found =
      std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) { return slot.id == id; });
  return found == slots_.end() ? nullptr : &*found;
}

Result<unsigned> KvmMachine::attach(const std::string& id, const MakeDevice& make) {
  if (id.empty() || find(id) != nullptr)
    return make_error(ErrorKind::kAlreadyExists, fmt::format("device `{}` exists", id));
  Slot* slot = find("");
  if (slot == nullptr)
    return make_error(ErrorKind::kResourceExhausted, "every slot of the machine is taken");
  TRY(wrap(make_device(*slot, make), fmt::format("device `{}`", id)));
  slot->id = id;
  return static_cast<unsigned>(slot - slots_.data());
}

Result<void> KvmMachine::make_device(Slot& slot, const MakeDevice& make) {
  Result<std::unique_ptr<VirtioDevice>> made;
  device_thread_->tasks().call([&] { made = make(device_thread_->loop()); });
  slot.device = TRY(std::move(made));
  const unsigned index = static_cast<unsigned>(&slot - slots_.data());
  TRY(slot.transport->attach(*slot.device));
  const uint64_t notify = layout::slot_address(index) + MmioTransport::kQueueNotify;
  // A queue's descriptor stays when its device goes: the next one's uses it.
  for (unsigned queue = slot.watched_queues; queue < slot.transport->queue_count(); ++queue) {
    TRY(vm_->add_ioeventfd(notify, queue, slot.transport->kick_fd(queue)));
    slot.watched_queues = queue + 1;
  }
  return {};
}

Result<void> KvmMachine::detach(const std::string& id) {
  Slot* slot = id.empty() ? nullptr : find(id);
  if (slot == nullptr)
    return make_error(ErrorKind::kNotFound, fmt::format("there is no device `{}`", id));
  slot->transport->detach();
  device_thread_->tasks().call([&] { slot->device.reset(); });
  slot->id.clear();
  return {};
}

Result<void> KvmMachine::with_device(const std::string& id,
                                     const std::function<Result<void>(VirtioDevice&)>& action) {
  Slot* slot = id.empty() ? nullptr : find(id);
  if (slot == nullptr)
    return make_error(ErrorKind::kNotFound, fmt::format("there is no device `{}`", id));
  Result<void> done;
  device_thread_->tasks().call([&] { done = action(*slot->device); });
  return done;
}

uint64_t KvmMachine::total_exits() const {
  uint64_t total = 0;
  if (vcpus_)
    for (const uint64_t count : vcpus_->exits()) total += count;
  return total;
}

void KvmMachine::append_console(std::string_view text) {
  const std::lock_guard lock(console_mutex_);
  if (console_.total_bytes() == 0) {
    first_console_ = TimePoint::now();
    first_console_exits_ = total_exits();
  }
  console_.append(text);
}

// ---- its life

Result<void> KvmMachine::start() {
  if (started_) return make_error(ErrorKind::kFailedPrecondition, "the machine runs already");
  AcpiConfig acpi;
  acpi.vcpus = options_.vcpus;
  acpi.slots = options_.slots;
  acpi.serial = options_.serial_console;
  PvhBoot boot;
  boot.command_line = options_.command_line;
  boot.rsdp_address = TRY(write_acpi(*memory_, acpi));
  boot.initramfs_address = initramfs_address_;
  boot.initramfs_size = initramfs_size_;
  TRY(write_pvh_boot(*memory_, boot));
  stages_.reached("devices");
  if (options_.confine_thread) {
    Result<void> confined;
    device_thread_->tasks().call([&] { confined = options_.confine_thread(Thread::kDevice); });
    TRY(std::move(confined));
    TRY(options_.confine_thread(Thread::kOwner));
  }
  started_ = true;
  stages_.reached("first instruction");
  vcpus_->resume();
  // Not from within the call that it may be the answer to.
  loop_.defer([this] { callbacks_.on_started(); });
  return {};
}

void KvmMachine::pause(Done done) {
  if (!started_ || exit_) return done(make_error(ErrorKind::kUnavailable, "it does not run"));
  vcpus_->pause();
  done({});
}

void KvmMachine::resume(Done done) {
  if (!started_ || exit_) return done(make_error(ErrorKind::kUnavailable, "it does not run"));
  vcpus_->resume();
  done({});
}

void KvmMachine::fail(std::string why) {
  tasks_->post([this, why = std::move(why)] { ended({VmExit::Reason::kCrashed, why}); });
}

void KvmMachine::stop() {
  tasks_->post([this] { ended({VmExit::Reason::kStopped, "it was stopped"}); });
}

void KvmMachine::ended(VmExit exit) {
  if (exit_) return;
  // guest-controlled, but it only chooses the words.
  if (exit.reason == VmExit::Reason::kReset &&
      console().find("Kernel panic - not syncing") != std::string::npos)
    exit = {VmExit::Reason::kPanic, "the guest's kernel has panicked"};
  exit_ = std::move(exit);
  vcpus_->stop();
  callbacks_.on_exit(*exit_);
}

// vCPUs first: they wait for the device thread. Then the devices, on their own thread.
void KvmMachine::finish() {
  if (std::exchange(finished_, true)) return;
  if (vcpus_) vcpus_->stop();
  for (Slot& slot : slots_) {
    slot.transport->detach();
    device_thread_->tasks().call([&] { slot.device.reset(); });
  }
  slots_.clear();
  device_thread_.reset();
}

std::string KvmMachine::console() const {
  const std::lock_guard lock(console_mutex_);
  return console_.text();
}

Json KvmMachine::device_metrics() const {
  Json devices = Json::array();
  for (const Slot& slot : slots_) {
    if (slot.id.empty()) continue;
    const DeviceMetrics counted = slot.device->metrics();
    Json kicks = Json::array();
    for (unsigned i = 0; i < slot.transport->queue_count(); ++i)
      kicks.push_back(slot.transport->kicks(i));
    devices.push_back({{"id", slot.id},
                       {"type", static_cast<uint32_t>(slot.device->type())},
                       {"kicks", std::move(kicks)},
                       {"requests", counted.requests},
                       {"failed_requests", counted.failed_requests},
                       {"bytes_from_guest", counted.bytes_from_guest},
                       {"bytes_to_guest", counted.bytes_to_guest},
                       {"rate_limiter_hits", counted.rate_limiter_hits}});
  }
  return devices;
}

Json KvmMachine::metrics() const {
  Json exits = Json::object();
  const ExitCounts counts = vcpus_->exits();
  for (size_t kind = 0; kind < counts.size(); ++kind) exits[kExitKindNames[kind]] = counts[kind];
  Json stages = Json::object();
  for (const auto& [name, microseconds] : stages_.entries()) stages[name] = microseconds;
  Json devices;
  device_thread_->tasks().call([&] { devices = device_metrics(); });
  const std::lock_guard lock(console_mutex_);
  if (console_.total_bytes() != 0)
    stages["first console output"] = (first_console_.ns - stages_.start().ns) / 1000;
  return {{"backend", "kvm"},
          {"start_monotonic_us", stages_.start().ns / 1000},
          {"uptime_ms", (TimePoint::now().ns - stages_.start().ns) / 1'000'000},
          {"exits", std::move(exits)},
          {"exits_before_first_console_output", first_console_exits_},
          {"stages_us", std::move(stages)},
          {"kernel_bytes", {{"mapped", placed_.mapped}, {"copied", placed_.copied}}},
          {"devices", std::move(devices)},
          {"console_bytes", console_.total_bytes()}};
}

}  // namespace kiln::vmm
