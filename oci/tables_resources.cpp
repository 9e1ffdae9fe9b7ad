// SPDX-License-Identifier: Apache-2.0
// runtime-spec 1.2 config-linux.md#control-groups.
#include "base/format.h"
#include "oci/rules.h"
#include "oci/tables.h"

namespace kiln::oci {
namespace {

using enum Presence;

const char* const kRuleTypes[] = {"a", "c", "b", "", nullptr};

// cgroup file names' size: a number, then KB, MB or GB.
bool is_page_size(std::string_view text) {
  if (text.size() < 3 || text[0] < '1' || text[0] > '9' || !text.ends_with('B')) return false;
  const std::string_view digits = text.substr(0, text.size() - 2);
  return digits.find_first_not_of("0123456789") == std::string_view::npos &&
         std::string_view("KMG").find(text[text.size() - 2]) != std::string_view::npos;
}

// A file of the container's own cgroup directory, nothing else.
bool is_cgroup_file(std::string_view text) {
  return !text.empty() && text != "." && text != ".." && text.find('/') == std::string_view::npos;
}

bool is_access(std::string_view text) {
  return !text.empty() && text.find_first_not_of("rwm") == std::string_view::npos;
}

// blkio's 10 … 1000; 0 means that it is not set, as in runc.
constexpr Rule kWeight{.min = 0, .max = 1000};
constexpr Rule kRuleType{.text = "must be one of a, c, b", .values = kRuleTypes};
constexpr Rule kAccess{.text = "must be made of the letters r, w, m", .accepts = is_access};
constexpr Rule kNumberOrAll{.min = -1, .max = 0xffffffff};
constexpr Rule kNumber{.min = 0, .max = 0xffffffff};
constexpr Rule kBytesOrUnlimited{.text = "must be -1 (unlimited) or a number of bytes", .min = -1};
constexpr Rule kSwappiness{.min = 0, .max = 100};
constexpr Rule kIdle{.min = 0, .max = 1};
constexpr Rule kPageSize{.text = "must be a size such as 64KB, 2MB or 1GB",
                         .accepts = is_page_size};
constexpr Rule kCgroupFile{.text = "must be a file name without slashes",
                           .accepts = is_cgroup_file};
constexpr Rule kUnified{.keys = &kCgroupFile};
constexpr Rule kRdma{.keys = &kNotEmpty};

constexpr Field kDeviceRuleFields[] = {
    field<&DeviceRule::allow>("allow", kWritten),
    field<&DeviceRule::type>("type", kOptional, &kRuleType),
    field<&DeviceRule::major>("major", kOptional, &kNumberOrAll),
    field<&DeviceRule::minor>("minor", kOptional, &kNumberOrAll),
    field<&DeviceRule::access>("access", kRequired, &kAccess),
};

constexpr Field kMemoryFields[] = {
    field<&MemoryResources::limit>("limit", kOptional, &kBytesOrUnlimited),
    field<&MemoryResources::reservation>("reservation", kOptional, &kBytesOrUnlimited),
    field<&MemoryResources::swap>("swap", kOptional, &kBytesOrUnlimited),
    field<&MemoryResources::kernel>("kernel", kOptional, &kBytesOrUnlimited),
    field<&MemoryResources::kernel_tcp>("kernelTCP", kOptional, &kBytesOrUnlimited),
    field<&MemoryResources::swappiness>("swappiness", kOptional, &kSwappiness),
    field<&MemoryResources::disable_oom_killer>("disableOOMKiller"),
    field<&MemoryResources::use_hierarchy>("useHierarchy"),
    field<&MemoryResources::check_before_update>("checkBeforeUpdate"),
};

// `swap` counts memory and swap together, so it cannot be less than memory alone.
bool check_memory(Reader& reader, void* object) {
  const auto& memory = *static_cast<const MemoryResources*>(object);
  const int64_t limit = memory.limit.value_or(0);
  const int64_t swap = memory.swap.value_or(0);
  if (swap > 0 && limit <= 0)
    return reader.fail("/swap", "needs a memory limit, as it is the sum of memory and swap");
  if (swap > 0 && swap < limit)
    return reader.fail_value("/swap",
                             fmt::format("must not be less than limit, which is {}", limit),
                             fmt::format("{}", swap));
  return true;
}

constexpr Field kCpuFields[] = {
    field<&CpuResources::shares>("shares"),
    field<&CpuResources::quota>("quota"),
    field<&CpuResources::burst>("burst"),
    field<&CpuResources::period>("period"),
    field<&CpuResources::realtime_runtime>("realtimeRuntime"),
    field<&CpuResources::realtime_period>("realtimePeriod"),
    field<&CpuResources::cpus>("cpus", kOptional, &kCpuList),
    field<&CpuResources::mems>("mems", kOptional, &kCpuList),
    field<&CpuResources::idle>("idle", kOptional, &kIdle),
};

// The kernel's own bounds (Documentation/scheduler/sched-bwc.rst): 1 ms … 1 s; quota ≥ 1 ms.
bool check_cpu(Reader& reader, void* object) {
  const auto& cpu = *static_cast<const CpuResources*>(object);
  const uint64_t period = cpu.period.value_or(0);
  if (period != 0 && (period < 1000 || period > 1000000))
    return reader.fail_value("/period", "must be 0 (unset) or between 1000 and 1000000",
                             fmt::format("{}", period));
  const int64_t quota = cpu.quota.value_or(0);
  if (quota > 0 && quota < 1000)
    return reader.fail_value("/quota", "must be at least 1000, or 0 or -1 (unlimited)",
                             fmt::format("{}", quota));
  return true;
}

constexpr Field kPidsFields[] = {field<&PidsResources::limit>("limit")};

constexpr Field kWeightDeviceFields[] = {
    field<&WeightDevice::major>("major", kRequired, &kNumber),
    field<&WeightDevice::minor>("minor", kRequired, &kNumber),
    field<&WeightDevice::weight>("weight", kOptional, &kWeight),
    field<&WeightDevice::leaf_weight>("leafWeight", kOptional, &kWeight),
};

constexpr Field kThrottleDeviceFields[] = {
    field<&ThrottleDevice::major>("major", kRequired, &kNumber),
    field<&ThrottleDevice::minor>("minor", kRequired, &kNumber),
    field<&ThrottleDevice::rate>("rate", kWritten),
};

constexpr Field kBlockIoFields[] = {
    field<&BlockIoResources::weight>("weight", kOptional, &kWeight),
    field<&BlockIoResources::leaf_weight>("leafWeight", kOptional, &kWeight),
    field<&BlockIoResources::weight_device>("weightDevice"),
    field<&BlockIoResources::throttle_read_bps_device>("throttleReadBpsDevice"),
    field<&BlockIoResources::throttle_write_bps_device>("throttleWriteBpsDevice"),
    field<&BlockIoResources::throttle_read_iops_device>("throttleReadIOPSDevice"),
    field<&BlockIoResources::throttle_write_iops_device>("throttleWriteIOPSDevice"),
};

constexpr Field kHugepageLimitFields[] = {
    field<&HugepageLimit::page_size>("pageSize", kRequired, &kPageSize),
    field<&HugepageLimit::limit>("limit", kRequired),
};

constexpr Field kInterfacePriorityFields[] = {
    field<&InterfacePriority::name>("name", kRequired, &kNotEmpty),
    field<&InterfacePriority::priority>("priority", kRequired),
};

constexpr Field kNetworkFields[] = {
    field<&NetworkResources::class_id>("classID"),
    field<&NetworkResources::priorities>("priorities"),
};

constexpr Field kRdmaFields[] = {
    field<&RdmaLimit::hca_handles>("hcaHandles"),
    field<&RdmaLimit::hca_objects>("hcaObjects"),
};

// config-linux.md#rdma: "You MUST specify at least one of the hcaHandles or hcaObjects"
bool check_rdma(Reader& reader, void* object) {
  const auto& limit = *static_cast<const RdmaLimit*>(object);
  return limit.hca_handles || limit.hca_objects ||
         reader.fail("", "needs hcaHandles or hcaObjects");
}

constexpr Field kResourcesFields[] = {
    field<&Resources::devices>("devices"),
    field<&Resources::memory>("memory"),
    field<&Resources::cpu>("cpu"),
    field<&Resources::pids>("pids"),
    field<&Resources::block_io>("blockIO"),
    field<&Resources::hugepage_limits>("hugepageLimits"),
    field<&Resources::network>("network"),
    field<&Resources::rdma>("rdma", kOptional, &kRdma),
    field<&Resources::unified>("unified", kOptional, &kUnified),
};

}  // namespace

constinit const Type TypeOf<DeviceRule>::kType = struct_type(kDeviceRuleFields);
constinit const Type TypeOf<MemoryResources>::kType = struct_type(kMemoryFields, check_memory);
constinit const Type TypeOf<CpuResources>::kType = struct_type(kCpuFields, check_cpu);
constinit const Type TypeOf<PidsResources>::kType = struct_type(kPidsFields);
constinit const Type TypeOf<WeightDevice>::kType = struct_type(kWeightDeviceFields);
constinit const Type TypeOf<ThrottleDevice>::kType = struct_type(kThrottleDeviceFields);
constinit const Type TypeOf<BlockIoResources>::kType = struct_type(kBlockIoFields);
constinit const Type TypeOf<HugepageLimit>::kType = struct_type(kHugepageLimitFields);
constinit const Type TypeOf<InterfacePriority>::kType = struct_type(kInterfacePriorityFields);
constinit const Type TypeOf<NetworkResources>::kType = struct_type(kNetworkFields);
constinit const Type TypeOf<RdmaLimit>::kType = struct_type(kRdmaFields, check_rdma);
constinit const Type TypeOf<Resources>::kType = struct_type(kResourcesFields);

}  // namespace kiln::oci
