// SPDX-License-Identifier: Apache-2.0
#include "runtime/cgroup/host_limits.h"

#include <algorithm>

#include "base/format.h"

namespace kiln::runtime {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;
constexpr uint64_t kDefaultPeriod = 100'000;  // µs; the kernel's own

std::string text(uint64_t value) { return fmt::format("{}", value); }

class Builder {
 public:
  Builder(const oci::Resources& resources, const HostMachine& machine, bool unified)
      : resources_(resources), machine_(machine), unified_(unified) {}

  Result<std::vector<HostLimit>> build() {
    if (resources_.memory) add_memory(*resources_.memory);
    if (resources_.cpu) add_cpu(*resources_.cpu);
    if (resources_.block_io) TRY(add_block_io(*resources_.block_io));
    return std::move(out_);
  }

 private:
  // `v2` empty: v2 has no such file.
  HostLimit& add(const char* controller, const char* v1, const char* v2, std::string value) {
    HostLimit& limit = out_.emplace_back();
    limit.controller = controller;
    limit.file = unified_ ? v2 : v1;
    limit.value = std::move(value);
    return limit;
  }
  std::string unlimited() const { return unified_ ? "max" : "-1"; }

  void add_memory(const oci::MemoryResources& memory);
  void add_swap(const oci::MemoryResources& memory, int64_t limit);
  void add_cpu(const oci::CpuResources& cpu);
  void add_quota(const oci::CpuResources& cpu);
  Result<void> add_block_io(const oci::BlockIoResources& block);
  void add_weight(const std::string& device, uint32_t weight);

  uint64_t machine_bytes() const { return (machine_.memory_mib + machine_.overhead_mib) * kMib; }

  const oci::Resources& resources_;
  const HostMachine& machine_;
  const bool unified_;
  std::vector<HostLimit> out_;
};

// 0 is an absent value everywhere: Docker writes every member.
void Builder::add_memory(const oci::MemoryResources& memory) {
  const int64_t limit = memory.limit.value_or(0);
  // The guest's cgroup holds the container to its limit; here it is the machine that must fit in.
  if (limit != 0) {
    add("memory", "memory.limit_in_bytes", "memory.max",
        limit > 0 ? text(machine_bytes()) : unlimited());
  }
  add_swap(memory, limit);
  const int64_t reservation = memory.reservation.value_or(0);
  if (reservation == 0) return;
  std::string value = unlimited();
  if (reservation > 0) {
    uint64_t extra = machine_.overhead_mib * kMib;
    if (limit > 0 && machine_bytes() > static_cast<uint64_t>(limit))
      extra = machine_bytes() - static_cast<uint64_t>(limit);
    value = text(static_cast<uint64_t>(reservation) + extra);
  }
  add("memory", "memory.soft_limit_in_bytes", "memory.low", value);
}

// `swap` counts memory and swap together, as v1's memsw does: what it allows beyond the limit is
// what of the machine may be swapped out.
void Builder::add_swap(const oci::MemoryResources& memory, int64_t limit) {
  const int64_t swap = memory.swap.value_or(0);
  if (swap < 0 || (swap == 0 && limit < 0)) {
    add("memory", "memory.memsw.limit_in_bytes", "memory.swap.max", unlimited()).may_be_absent =
        true;
  } else if (swap > 0) {
    const uint64_t beyond = swap > limit ? static_cast<uint64_t>(swap - limit) : 0;
    add("memory", "memory.memsw.limit_in_bytes", "memory.swap.max",
        text(unified_ ? beyond : machine_bytes() + beyond))
        // Without swap accounting nothing could be limited.
        .may_be_absent = beyond == 0;
  }
}

void Builder::add_cpu(const oci::CpuResources& cpu) {
  // Before cpu.idle: an idle cgroup refuses a weight.
  if (const uint64_t shares = cpu.shares.value_or(0); shares != 0) {
    // v1's 2 … 262144 are v2's 1 … 10000, linearly.
    const uint64_t weight = 1 + (std::clamp<uint64_t>(shares, 2, 262144) - 2) * 9999 / 262142;
    add("cpu", "cpu.shares", "cpu.weight", text(unified_ ? weight : shares));
  }
  if (cpu.idle.value_or(0) != 0) add("cpu", "cpu.idle", "cpu.idle", fmt::format("{}", *cpu.idle));
  add_quota(cpu);
  if (!cpu.cpus.empty()) add("cpuset", "cpuset.cpus", "cpuset.cpus", cpu.cpus);
  if (!cpu.mems.empty()) add("cpuset", "cpuset.mems", "cpuset.mems", cpu.mems);
}

void Builder::add_quota(const oci::CpuResources& cpu) {
  const int64_t quota = cpu.quota.value_or(0);
  const uint64_t period = cpu.period.value_or(0);
  if (quota == 0 && period == 0) return;
  const std::string amount = quota > 0 ? text(static_cast<uint64_t>(quota)) : unlimited();
  if (unified_) {
    add("cpu", "", "cpu.max", fmt::format("{} {}", amount, period != 0 ? period : kDefaultPeriod))
        .throttles = true;
  } else {
    if (period != 0) add("cpu", "cpu.cfs_period_us", "", text(period));
    if (quota != 0) add("cpu", "cpu.cfs_quota_us", "", amount).throttles = true;
  }
  // After the quota: a burst must not exceed it.
  if (cpu.burst.value_or(0) != 0)
    add("cpu", "cpu.cfs_burst_us", "cpu.max.burst", text(*cpu.burst)).throttles = true;
}

// BFQ's own file, or the one that the kernel has otherwise.
void Builder::add_weight(const std::string& device, uint32_t weight) {
  const std::string value = fmt::format("{}{}", device, weight);
  if (unified_) {
    HostLimit& limit = add("io", "", "io.bfq.weight", value);
    limit.fallback_file = "io.weight";
    // v1's 10 … 1000 are v2's 1 … 10000, linearly.
    const uint64_t other = 1 + (std::clamp<uint64_t>(weight, 10, 1000) - 10) * 9999 / 990;
    limit.fallback_value = fmt::format("{}{}", device.empty() ? "default " : device, other);
    return;
  }
  const bool one = !device.empty();
  HostLimit& limit = add("blkio", one ? "blkio.bfq.weight_device" : "blkio.bfq.weight", "", value);
  limit.fallback_file = one ? "blkio.weight_device" : "blkio.weight";
  limit.fallback_value = value;
}

Result<void> Builder::add_block_io(const oci::BlockIoResources& block) {
  if (block.weight.value_or(0) != 0) add_weight("", *block.weight);
  for (const oci::WeightDevice& device : block.weight_device) {
    if (device.leaf_weight.value_or(0) != 0)
      return make_error(ErrorKind::kUnimplemented,
                        "linux.resources.blockIO.weightDevice.leafWeight: Linux has none any more");
    if (device.weight.value_or(0) != 0)
      add_weight(fmt::format("{}:{} ", device.major, device.minor), *device.weight);
  }
  const struct {
    const std::vector<oci::ThrottleDevice>& devices;
    const char* v1;
    const char* key;
  } throttles[] = {
      {block.throttle_read_bps_device, "blkio.throttle.read_bps_device", "rbps"},
      {block.throttle_write_bps_device, "blkio.throttle.write_bps_device", "wbps"},
      {block.throttle_read_iops_device, "blkio.throttle.read_iops_device", "riops"},
      {block.throttle_write_iops_device, "blkio.throttle.write_iops_device", "wiops"},
  };
  for (const auto& throttle : throttles) {
    for (const oci::ThrottleDevice& device : throttle.devices) {
      const std::string where = fmt::format("{}:{}", device.major, device.minor);
      if (!unified_) {
        add("blkio", throttle.v1, "", fmt::format("{} {}", where, device.rate));
        continue;
      }
      // 0 lifts a limit in v1; io.max has `max` for that.
      const std::string rate = device.rate == 0 ? "max" : text(device.rate);
      add("io", "", "io.max", fmt::format("{} {}={}", where, throttle.key, rate));
    }
  }
  return {};
}

}  // namespace

uint64_t machine_overhead_mib(MachineKind kind, unsigned vcpus, uint64_t memory_mib) {
  uint64_t base = 128;
  if (kind == MachineKind::kQemuKvm) base = 256;
  // QEMU's buffer of translated code alone may grow to 256 MiB (vmm/qemu/command_line.cpp).
  if (kind == MachineKind::kQemuTcg) base = 512;
  return base + uint64_t{8} * vcpus + memory_mib / 8;
}

Result<std::vector<HostLimit>> host_limits(const oci::Resources& resources,
                                           const HostMachine& machine, bool unified) {
  return Builder(resources, machine, unified).build();
}

std::vector<HostLimit> without_throttles(const std::vector<HostLimit>& limits) {
  std::vector<HostLimit> out;
  for (HostLimit limit : limits) {
    if (limit.throttles) {
      if (limit.file == "cpu.max") {
        limit.value = "max" + limit.value.substr(limit.value.find(' '));
      } else {
        limit.value = limit.file == "cpu.cfs_quota_us" ? "-1" : "0";
      }
    }
    out.push_back(std::move(limit));
  }
  return out;
}

}  // namespace kiln::runtime
