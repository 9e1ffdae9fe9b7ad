// SPDX-License-Identifier: Apache-2.0
#include "runtime/container_update.h"

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"
#include "oci/parse.h"
#include "runtime/container_cgroup.h"
#include "runtime/control_client.h"
#include "runtime/guest_resources.h"
#include "runtime/spec_check.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kAnswerTimeoutMs = 40'000;
constexpr int kMaxDepth = 64;  // of parse_json

bool is_unset(const Json& value) {
  return value.is_null() || value == 0 || value == "" || value == false ||
         ((value.is_object() || value.is_array()) && value.empty());
}

void strip_unset(Json& object, int depth = 0) {
  for (auto entry = object.begin(); entry != object.end();) {
    if (entry->is_object() && depth < kMaxDepth) strip_unset(*entry, depth + 1);
    entry = is_unset(*entry) ? object.erase(entry) : std::next(entry);
  }
}

// Members that one file of the cgroup is made of: if one changes, the other comes along.
constexpr const char* kPairs[][3] = {
    {"memory", "limit", "swap"},
    {"cpu", "quota", "period"},
};

void complete_pairs(Json& changes, const Json& merged) {
  for (const auto& [section, one, other] : kPairs) {
    if (!changes.contains(section) || !changes[section].is_object()) continue;
    Json& part = changes[section];
    if (!part.contains(one) && !part.contains(other)) continue;
    for (const char* member : {one, other})
      if (merged.at(section).contains(member)) part[member] = merged.at(section).at(member);
  }
}

Result<void> check_machine(const ContainerRecord& record, const oci::Resources& resources) {
  const uint64_t memory_bytes = record.machine.memory_mib << 20;
  if (resources.memory && resources.memory->limit.value_or(0) > 0 &&
      static_cast<uint64_t>(*resources.memory->limit) > memory_bytes) {
    return make_error(
        ErrorKind::kOutOfRange,
        fmt::format("memory limit of {} bytes: the container's VM has {} MiB ({} "
                    "bytes), and cannot grow while it runs",
                    *resources.memory->limit, record.machine.memory_mib, memory_bytes));
  }
  const unsigned cpus = resources.cpu ? usable_cpus(*resources.cpu) : 0;
  if (cpus > record.vcpus)
    log_warning("the container may use {} CPUs, its VM has {} and cannot get more while it runs",
                cpus, record.vcpus);
  return {};
}

Result<void> tell_monitor(const ContainerDir& dir, const ResourceUpdate& update) {
  TRY(call_monitor(dir, "update",
                   {{"guest", oci::to_json(update.guest)}, {"merged", oci::to_json(update.merged)}},
                   kAnswerTimeoutMs));
  return {};
}

}  // namespace

Result<ResourceUpdate> plan_update(const oci::Resources& current, Json changes,
                                   const std::string& file, std::vector<std::string>* warnings) {
  if (!changes.is_object()) return invalid_argument(fmt::format("{}: must be an object", file));
  if (changes.contains("devices")) {
    log_debug("{}: /devices: access to devices does not change while it runs, ignoring", file);
    changes.erase("devices");
  }
  strip_unset(changes);
  Json merged = oci::to_json(current);
  if (!merged.is_object()) merged = Json::object();
  merged.merge_patch(changes);
  ResourceUpdate update;
  update.merged = TRY(oci::parse_resources(merged, file, warnings));
  complete_pairs(changes, merged);
  update.guest = guest_resources(TRY(oci::parse_resources(changes, file)));
  return update;
}

Result<void> update_container(const ContainerDir& dir, Json changes, const std::string& file) {
  const ContainerRecord before = TRY(dir.current_record());
  if (before.state.status == "stopped" || before.state.status == "creating")
    return make_error(ErrorKind::kFailedPrecondition, "container not running");
  std::vector<std::string> warnings;
  const ResourceUpdate update =
      TRY(plan_update(before.resources, std::move(changes), file, &warnings));
  for (const std::string& warning : warnings) log_debug("{}", warning);
  TRY(check_machine(before, update.merged));
  ContainerRecord after = before;
  after.resources = update.merged;
  auto outcome = limit_container_cgroup(after);
  if (outcome) {
    outcome = tell_monitor(dir, update);
    if (outcome) return {};
    static_cast<void>(tell_monitor(dir, {before.resources, guest_resources(before.resources)}));
  }
  if (auto restored = limit_container_cgroup(before); !restored)
    log_warning("set the old limits again: {}, ignoring", restored.error().message);
  return outcome;
}

}  // namespace kiln::runtime
