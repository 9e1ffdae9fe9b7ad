// SPDX-License-Identifier: Apache-2.0
#include "agent/container/cgroup_settings.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "base/format.h"
#include "oci/spec.h"

namespace kiln::agent {
namespace {

constexpr char kMax[] = "max";

tl::unexpected<Error> unsupported(std::string_view member) {
  return make_error(
      ErrorKind::kUnimplemented,
      fmt::format("linux.resources.{}: cgroup v2, which the guest has, cannot do it", member));
}

std::string number_or_max(int64_t value) {
  return value < 0 ? std::string(kMax) : fmt::format("{}", value);
}

// Collects the settings of one controller.
class Builder {
 public:
  Builder(CgroupSettings& out, std::string controller)
      : out_(out), controller_(std::move(controller)) {}

  CgroupSetting& set(std::string file, std::string value, std::string_view member) {
    out_.settings.push_back({.controller = controller_,
                             .file = std::move(file),
                             .value = std::move(value),
                             .origin = fmt::format("linux.resources.{}", member)});
    return out_.settings.back();
  }

 private:
  CgroupSettings& out_;
  std::string controller_;
};

Result<void> add_memory(const oci::MemoryResources& memory, CgroupSettings& out) {
  if (memory.disable_oom_killer.value_or(false)) return unsupported("memory.disableOOMKiller");
  if (memory.kernel || memory.kernel_tcp)
    out.warnings.push_back("linux.resources.memory.kernel: is deprecated");
  if (memory.swappiness)
    out.warnings.push_back(
        "linux.resources.memory.swappiness: cgroup v2 has none, and the guest has no swap space");
  if (memory.use_hierarchy && !*memory.use_hierarchy)
    out.warnings.push_back("linux.resources.memory.useHierarchy: cgroup v2 is always hierarchical");

  Builder builder(out, "memory");
  // 0 is an absent value: Docker writes every member.
  const int64_t limit = memory.limit.value_or(0);
  const std::string swap =
      TRY(wrap(swap_max(memory.limit, memory.swap), "linux.resources.memory.swap"));
  if (!swap.empty()) {
    auto& setting = builder.set("memory.swap.max", swap, "memory.swap");
    // A kernel without swap accounting, or with it switched off, has no such file.
    if (swap == kMax || swap == "0") setting.when_absent = WhenAbsent::kSkip;
  }
  if (limit != 0) builder.set("memory.max", number_or_max(limit), "memory.limit");
  if (memory.reservation.value_or(0) != 0)
    builder.set("memory.low", number_or_max(*memory.reservation), "memory.reservation");
  if (memory.check_before_update.value_or(false) && limit > 0)
    out.refuse_limit_below_usage = static_cast<uint64_t>(limit);
  return {};
}

Result<void> add_cpu(const oci::CpuResources& cpu, CgroupSettings& out) {
  if (cpu.realtime_runtime.value_or(0) != 0) return unsupported("cpu.realtimeRuntime");
  if (cpu.realtime_period.value_or(0) != 0) return unsupported("cpu.realtimePeriod");

  Builder builder(out, "cpu");
  // Before cpu.idle: an idle cgroup refuses a weight.
  if (cpu.shares.value_or(0) != 0)
    builder.set("cpu.weight", fmt::format("{}", weight_of_shares(*cpu.shares)), "cpu.shares");
  if (cpu.idle.value_or(0) != 0) builder.set("cpu.idle", fmt::format("{}", *cpu.idle), "cpu.idle");
  const int64_t quota = cpu.quota.value_or(0);
  const uint64_t period = cpu.period.value_or(0);
  if (quota != 0 || period != 0) {
    constexpr uint64_t default_period = 100000;  // µs
    builder.set("cpu.max",
                fmt::format("{} {}", quota > 0 ? number_or_max(quota) : kMax,
                            period != 0 ? period : default_period),
                quota != 0 ? "cpu.quota" : "cpu.period");
  }
  // After cpu.max: a burst must not exceed the quota.
  if (cpu.burst.value_or(0) != 0)
    builder.set("cpu.max.burst", fmt::format("{}", *cpu.burst), "cpu.burst");

  Builder cpuset(out, "cpuset");
  if (!cpu.cpus.empty()) cpuset.set("cpuset.cpus", cpu.cpus, "cpu.cpus");
  if (!cpu.mems.empty()) cpuset.set("cpuset.mems", cpu.mems, "cpu.mems");
  return {};
}

Result<void> check_block_weight(uint64_t weight, std::string_view member) {
  if (weight >= 10 && weight <= 1000) return {};
  return invalid_argument(
      fmt::format("linux.resources.{}: must be 10 to 1000, is {}", member, weight));
}

// BFQ's own file, or the one of the io.cost controller.
Result<void> add_weight(Builder& builder, const std::string& device, uint32_t weight,
                        std::string_view member) {
  TRY(check_block_weight(weight, member));
  auto& setting = builder.set("io.bfq.weight", fmt::format("{}{}", device, weight), member);
  setting.fallback_file = "io.weight";
  setting.fallback_value = fmt::format("{}{}", device, io_weight_of_block_weight(weight));
  return {};
}

Result<void> add_block_io(const oci::BlockIoResources& block, CgroupSettings& out) {
  if (block.leaf_weight.value_or(0) != 0) return unsupported("blockIO.leafWeight");
  Builder builder(out, "io");
  if (block.weight.value_or(0) != 0) TRY(add_weight(builder, "", *block.weight, "blockIO.weight"));
  for (const oci::WeightDevice& device : block.weight_device) {
    if (device.leaf_weight.value_or(0) != 0) return unsupported("blockIO.weightDevice.leafWeight");
    if (device.weight.value_or(0) == 0) continue;
    TRY(add_weight(builder, fmt::format("{}:{} ", device.major, device.minor), *device.weight,
                   "blockIO.weightDevice"));
  }
  const struct {
    const std::vector<oci::ThrottleDevice>& devices;
    const char* key;
    const char* member;
  } throttles[] = {
      {block.throttle_read_bps_device, "rbps", "blockIO.throttleReadBpsDevice"},
      {block.throttle_write_bps_device, "wbps", "blockIO.throttleWriteBpsDevice"},
      {block.throttle_read_iops_device, "riops", "blockIO.throttleReadIOPSDevice"},
      {block.throttle_write_iops_device, "wiops", "blockIO.throttleWriteIOPSDevice"},
  };
  for (const auto& throttle : throttles) {
    for (const oci::ThrottleDevice& device : throttle.devices) {
      // 0 lifts a limit in cgroup v1; io.max has `max` for that.
      const std::string rate = device.rate == 0 ? kMax : fmt::format("{}", device.rate);
      builder.set("io.max",
                  fmt::format("{}:{} {}={}", device.major, device.minor, throttle.key, rate),
                  throttle.member);
    }
  }
  return {};
}

Result<void> add_hugepages(const std::vector<oci::HugepageLimit>& limits, CgroupSettings& out) {
  Builder builder(out, "hugetlb");
  for (const oci::HugepageLimit& limit : limits) {
    if (limit.page_size.empty() ||
        limit.page_size.find_first_not_of("0123456789KMGB") != std::string::npos) {
      return invalid_argument(fmt::format(
          "linux.resources.hugepageLimits: `{}` is no page size such as 2MB", limit.page_size));
    }
    const std::string value = fmt::format("{}", limit.limit);
    builder.set(fmt::format("hugetlb.{}.max", limit.page_size), value, "hugepageLimits");
    // Reservations are not usage: without this one, a mapping that was granted dies of SIGBUS.
    builder.set(fmt::format("hugetlb.{}.rsvd.max", limit.page_size), value, "hugepageLimits")
        .when_absent = WhenAbsent::kSkip;
  }
  return {};
}

Result<void> add_rdma(const std::map<std::string, oci::RdmaLimit>& limits, CgroupSettings& out) {
  Builder builder(out, "rdma");
  for (const auto& [device, limit] : limits) {
    if (device.empty() || device.find_first_of(" \n") != std::string::npos)
      return invalid_argument(fmt::format("linux.resources.rdma: `{}` is no device name", device));
    std::string value = device;
    if (limit.hca_handles) value += fmt::format(" hca_handle={}", *limit.hca_handles);
    if (limit.hca_objects) value += fmt::format(" hca_object={}", *limit.hca_objects);
    if (value.size() != device.size()) builder.set("rdma.max", value, "rdma");
  }
  return {};
}

// Files that steer the cgroup rather than limit it; the agent's own handling relies on them.
constexpr std::string_view kReservedFiles[] = {
    "cgroup.procs", "cgroup.threads", "cgroup.kill",
    "cgroup.type",  "cgroup.freeze",  "cgroup.subtree_control",
};

Result<void> add_unified(const oci::StringMap& files, CgroupSettings& out) {
  for (const auto& [file, value] : files) {
    const size_t dot = file.find('.');
    const bool plain = file.find('/') == std::string::npos && dot != std::string::npos && dot > 0 &&
                       file.find('\0') == std::string::npos;
    if (!plain) {
      return invalid_argument(
          fmt::format("linux.resources.unified: `{}` is no file name such as memory.high", file));
    }
    for (const std::string_view reserved : kReservedFiles) {
      if (file == reserved)
        return invalid_argument(
            fmt::format("linux.resources.unified: `{}` is not to be set", file));
    }
    std::string controller = file.substr(0, dot);
    if (controller == "cgroup") controller.clear();
    Builder builder(out, std::move(controller));
    const std::string member = fmt::format("unified `{}`", file);
    // io.max and its like take one line a write.
    for (size_t begin = 0; begin <= value.size();) {
      const size_t end = std::min(value.find('\n', begin), value.size());
      if (end > begin || value.empty()) builder.set(file, value.substr(begin, end - begin), member);
      begin = end + 1;
    }
  }
  return {};
}

}  // namespace

uint64_t weight_of_shares(uint64_t shares) {
  const uint64_t clamped = std::clamp<uint64_t>(shares, 2, 262144);
  return 1 + (clamped - 2) * 9999 / 262142;
}

uint64_t io_weight_of_block_weight(uint64_t weight) {
  const uint64_t clamped = std::clamp<uint64_t>(weight, 10, 1000);
  return 1 + (clamped - 10) * 9999 / 990;
}

Result<std::string> swap_max(std::optional<int64_t> limit, std::optional<int64_t> swap) {
  const int64_t memory = limit.value_or(0);
  const int64_t total = swap.value_or(0);
  // cgroup v1 made swap unlimited along with memory.
  if (total < 0 || (total == 0 && memory < 0)) return std::string(kMax);
  if (total == 0) return std::string();
  if (memory <= 0) return invalid_argument("needs a memory limit");
  if (total < memory) {
    return invalid_argument(
        fmt::format("counts memory and swap together, so {} must not be below the memory limit {}",
                    total, memory));
  }
  return fmt::format("{}", total - memory);
}

Result<CgroupSettings> cgroup_settings(const oci::Resources& resources) {
  CgroupSettings out;
  if (resources.network &&
      (resources.network->class_id.value_or(0) != 0 || !resources.network->priorities.empty()))
    return unsupported("network");
  if (resources.memory) TRY(add_memory(*resources.memory, out));
  if (resources.cpu) TRY(add_cpu(*resources.cpu, out));
  if (resources.pids && resources.pids->limit) {
    const int64_t limit = *resources.pids->limit;
    Builder(out, "pids").set("pids.max", number_or_max(limit > 0 ? limit : -1), "pids.limit");
  }
  if (resources.block_io) TRY(add_block_io(*resources.block_io, out));
  TRY(add_hugepages(resources.hugepage_limits, out));
  TRY(add_rdma(resources.rdma, out));
  // Last, as runtime-spec 1.2 config-linux.md#unified has it override what it overlaps with.
  TRY(add_unified(resources.unified, out));
  return out;
}

}  // namespace kiln::agent
