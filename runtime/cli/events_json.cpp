// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/events_json.h"

#include <algorithm>

namespace kiln::runtime {
namespace {

uint64_t nanoseconds(uint64_t microseconds) {
  return microseconds > UINT64_MAX / 1000 ? UINT64_MAX : microseconds * 1000;
}

uint64_t sum(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

// Go's `omitempty`.
void put_unless_zero(Json& out, const char* key, uint64_t value) {
  if (value != 0) out[key] = value;
}

Json memory_entry(uint64_t limit, uint64_t usage, uint64_t peak, uint64_t hits) {
  Json out{{"limit", limit}, {"failcnt", hits}};
  put_unless_zero(out, "usage", usage);
  put_unless_zero(out, "max", peak);
  return out;
}

Json cpu_of(const protocol::StatsReply& stats) {
  Json usage{{"kernel", nanoseconds(stats.cpu_system_us)},
             {"user", nanoseconds(stats.cpu_user_us)},
             {"percpu_kernel", nullptr},
             {"percpu_user", nullptr}};
  put_unless_zero(usage, "total", nanoseconds(stats.cpu_us));
  Json throttling = Json::object();
  put_unless_zero(throttling, "periods", stats.periods);
  put_unless_zero(throttling, "throttledPeriods", stats.throttled_periods);
  put_unless_zero(throttling, "throttledTime", nanoseconds(stats.throttled_us));
  return {{"usage", std::move(usage)}, {"throttling", std::move(throttling)}};
}

// v2 has none of these; runc writes them all the same.
Json cpuset() {
  return {{"cpu_exclusive", 0},      {"mem_exclusive", 0},      {"mem_hardwall", 0},
          {"memory_migrate", 0},     {"memory_pressure", 0},    {"memory_spread_page", 0},
          {"memory_spread_slab", 0}, {"sched_load_balance", 0}, {"sched_relax_domain_level", 0}};
}

Json memory_of(const protocol::StatsReply& stats) {
  Json out;
  const auto cache = stats.memory_stat.find("file");
  if (cache != stats.memory_stat.end()) put_unless_zero(out, "cache", cache->second);
  out["usage"] = memory_entry(stats.memory_limit_bytes, stats.memory_bytes, stats.memory_peak_bytes,
                              stats.memory_limit_hits);
  // As v1 counts: memory and swap together.
  out["swap"] = memory_entry(sum(stats.memory_limit_bytes, stats.swap_limit_bytes),
                             sum(stats.memory_bytes, stats.swap_bytes), 0, 0);
  out["kernel"] = memory_entry(0, 0, 0, 0);
  out["kernelTCP"] = memory_entry(0, 0, 0, 0);
  if (!stats.memory_stat.empty()) out["raw"] = stats.memory_stat;
  return out;
}

Json block_of(const protocol::StatsReply& stats) {
  Json bytes = Json::array();
  Json operations = Json::array();
  const auto add = [](Json& list, const protocol::BlockStats& block, const char* op,
                      uint64_t value) {
    Json entry{{"op", op}};
    put_unless_zero(entry, "major", block.major);
    put_unless_zero(entry, "minor", block.minor);
    put_unless_zero(entry, "value", value);
    list.push_back(std::move(entry));
  };
  for (const protocol::BlockStats& block : stats.block) {
    add(bytes, block, "Read", block.read_bytes);
    add(bytes, block, "Write", block.written_bytes);
    add(operations, block, "Read", block.reads);
    add(operations, block, "Write", block.writes);
  }
  Json out = Json::object();
  if (!bytes.empty()) out["ioServiceBytesRecursive"] = std::move(bytes);
  if (!operations.empty()) out["ioServicedRecursive"] = std::move(operations);
  return out;
}

}  // namespace

Json stats_event_data(const protocol::StatsReply& stats) {
  Json pids = Json::object();
  put_unless_zero(pids, "current", stats.pids);
  if (stats.pids_limit != protocol::kUnlimited) put_unless_zero(pids, "limit", stats.pids_limit);
  Json hugetlb = Json::object();
  for (const auto& [size, pages] : stats.hugepages) {
    Json entry{{"failcnt", pages.limit_hits}};
    put_unless_zero(entry, "usage", pages.usage_bytes);
    hugetlb[size] = std::move(entry);
  }
  return {{"cpu", cpu_of(stats)},        {"cpuset", cpuset()},
          {"memory", memory_of(stats)},  {"pids", std::move(pids)},
          {"blkio", block_of(stats)},    {"hugetlb", std::move(hugetlb)},
          {"intel_rdt", Json::object()}, {"network_interfaces", nullptr}};
}

}  // namespace kiln::runtime
