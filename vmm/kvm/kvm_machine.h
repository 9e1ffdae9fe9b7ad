// SPDX-License-Identifier: Apache-2.0
// The built-in machine: one KVM virtual machine, its vCPUs, its slots and what is in them.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/console_ring.h"
#include "vmm/kvm/device_thread.h"
#include "vmm/kvm/ioapic.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/platform.h"
#include "vmm/kvm/serial.h"
#include "vmm/kvm/stages.h"
#include "vmm/kvm/vcpus.h"
#include "vmm/machine.h"
#include "vmm/memory/guest_ram.h"

namespace kiln::vmm {

struct KvmMachineOptions {
  UniqueFd kernel;     // ELF with a PVH note
  UniqueFd initramfs;  // invalid: none
  std::string command_line;
  unsigned vcpus = 1;
  RamOptions ram;
  bool nested = false;
  // The serial port is described to the guest, so that it can be its console. It is there anyway.
  bool serial_console = false;
  unsigned slots = 0;  // for devices, now and later; at most layout::kMaxSlots
  // Called at the start of each kind of thread, the calling one included, before it sees anything
  // of the guest's. Empty: nothing is done.
  enum class Thread { kVcpu, kDevice, kOwner };
  std::function<Result<void>(Thread)> confine_thread;
};

// Used on the thread of `loop`, which is the owner's; callbacks come there.
class KvmMachine : public Machine {
 public:
  // Makes a device on the device thread, whose loop it gets.
  using MakeDevice = std::function<Result<std::unique_ptr<VirtioDevice>>(EventLoop&)>;

  // The guest's memory is laid out and the kernel is in it; no vCPU runs.
  static Result<std::unique_ptr<KvmMachine>> create(EventLoop& loop, const Kvm& kvm,
                                                    KvmMachineOptions options, Stages stages,
                                                    Callbacks callbacks);
  ~KvmMachine() override;

  // Into the first free slot, which it returns; at any time. kAlreadyExists, kResourceExhausted.
  Result<unsigned> attach(const std::string& id, const MakeDevice& make);
  // kNotFound. The guest should have let go of it.
  Result<void> detach(const std::string& id);
  // On the device thread, with the device. kNotFound.
  Result<void> with_device(const std::string& id,
                           const std::function<Result<void>(VirtioDevice&)>& action);
  // What the guest says on a console of its own; from any thread.
  void append_console(std::string_view text);
  // The machine cannot go on; from any thread.
  void fail(std::string why);
  // After the first devices: writes the tables that describe the machine, and lets the vCPUs run.
  Result<void> start();

  void pause(Done done) override;
  void resume(Done done) override;
  void stop() override;
  std::string console() const override;
  Json metrics() const override;

  const std::shared_ptr<GuestMemory>& memory() const { return memory_; }

 private:
  struct Slot {
    std::string id;  // empty: free
    std::unique_ptr<MmioTransport> transport;
    std::unique_ptr<VirtioDevice> device;  // of the device thread
    unsigned watched_queues = 0;           // have an ioeventfd
  };

  KvmMachine(EventLoop& loop, KvmMachineOptions options, Stages stages, Callbacks callbacks);
  Result<void> set_up(const Kvm& kvm);
  Result<void> load_guest();
  Result<void> make_slots();
  Result<std::vector<KvmVcpu>> make_vcpus(const Kvm& kvm);
  Result<void> make_device(Slot& slot, const MakeDevice& make);
  Slot* find(const std::string& id);
  void ended(VmExit exit);
  void finish();
  Json device_metrics() const;
  uint64_t total_exits() const;

  EventLoop& loop_;
  KvmMachineOptions options_;
  const Callbacks callbacks_;
  Stages stages_;
  std::unique_ptr<TaskQueue> tasks_;  // of loop_
  std::unique_ptr<DeviceThread> device_thread_;
  std::shared_ptr<GuestMemory> memory_ = std::make_shared<GuestMemory>();
  std::optional<KvmVm> vm_;
  std::optional<IoApic> ioapic_;
  std::optional<Serial> serial_;
  UniqueFd serial_interrupt_;
  std::vector<Slot> slots_;
  std::optional<Platform> platform_;
  std::unique_ptr<Vcpus> vcpus_;
  uint32_t entry_ = 0;
  uint64_t initramfs_address_ = 0;
  uint64_t initramfs_size_ = 0;
  Placed placed_;
  mutable std::mutex console_mutex_;
  ConsoleRing console_;
  TimePoint first_console_;
  uint64_t first_console_exits_ = 0;
  std::optional<VmExit> exit_;  // the first reason that there was
  bool started_ = false;
  bool finished_ = false;
};

}  // namespace kiln::vmm
