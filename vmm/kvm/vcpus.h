// SPDX-License-Identifier: Apache-2.0
// The vCPUs of a machine, a thread each.
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "vmm/api/vm.h"
#include "vmm/kvm/bus.h"
#include "vmm/kvm/kvm.h"

namespace kiln::vmm {

// Why KVM_RUN returned.
enum class ExitKind { kPortIn, kPortOut, kMemoryRead, kMemoryWrite, kInterrupted, kOther };
constexpr std::array kExitKindNames = {"io_in",      "io_out",      "mmio_read",
                                       "mmio_write", "interrupted", "other"};
using ExitCounts = std::array<uint64_t, kExitKindNames.size()>;

// Used by one thread, the owner's; the vCPUs' own threads are inside.
class Vcpus {
 public:
  struct Callbacks {
    // On each vCPU's thread, before it runs anything of the guest's.
    std::function<Result<void>()> on_thread_start;
    // On a vCPU's thread, at most once for each: this one will not run again.
    std::function<void(VmExit)> on_end;
  };

  // Threads start, and wait. `bus` must outlive this.
  static Result<std::unique_ptr<Vcpus>> create(std::vector<KvmVcpu> vcpus, Bus& bus,
                                               Callbacks callbacks);
  ~Vcpus();  // as stop()
  Vcpus(const Vcpus&) = delete;
  Vcpus& operator=(const Vcpus&) = delete;

  void resume();
  // Returns when none of them is in the guest any more, nor handles an exit.
  void pause();
  // The threads have ended when it returns. For good.
  void stop();
  ExitCounts exits() const;

 private:
  enum class Wish { kPause, kRun, kStop };
  struct Vcpu {
    explicit Vcpu(KvmVcpu its_vcpu) : vcpu(std::move(its_vcpu)) {}
    KvmVcpu vcpu;
    pthread_t thread{};
    bool has_thread = false;
    std::array<std::atomic<uint64_t>, kExitKindNames.size()> exits{};
  };

  Vcpus(Bus& bus, Callbacks callbacks) : bus_(bus), callbacks_(std::move(callbacks)) {}
  Result<void> start_thread(Vcpu& vcpu);
  void thread_main(Vcpu& vcpu);
  bool wait_for_wish();
  // A result: it is over.
  std::optional<VmExit> run_once(Vcpu& vcpu);
  std::optional<VmExit> handle_exit(Vcpu& vcpu);
  std::optional<VmExit> handle_port(const KvmVcpu& vcpu);
  void wish(Wish wish);
  void kick_all();

  Bus& bus_;
  const Callbacks callbacks_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<Wish> wish_{Wish::kPause};
  size_t waiting_ = 0;  // threads that neither run nor handle an exit
};

}  // namespace kiln::vmm
