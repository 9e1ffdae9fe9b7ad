// SPDX-License-Identifier: Apache-2.0
#include "shim/stats.h"

#include "cgroup1.pb.h"
#include "cgroup2.pb.h"

namespace kiln::shim {
namespace {

uint64_t nanoseconds(uint64_t microseconds) {
  return microseconds > UINT64_MAX / 1000 ? UINT64_MAX : microseconds * 1000;
}

uint64_t sum(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

class MemoryStat {
 public:
  explicit MemoryStat(const std::map<std::string, uint64_t>& values) : values_(values) {}
  uint64_t operator[](const char* name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? 0 : found->second;
  }

 private:
  const std::map<std::string, uint64_t>& values_;
};

void fill_memory(const protocol::StatsReply& stats, api::cgroup1::MemoryStat& out) {
  const MemoryStat stat(stats.memory_stat);
  out.set_cache(stat["file"]);
  out.set_rss(stat["anon"]);
  out.set_rss_huge(stat["anon_thp"]);
  out.set_mapped_file(stat["file_mapped"]);
  out.set_dirty(stat["file_dirty"]);
  out.set_writeback(stat["file_writeback"]);
  out.set_pg_fault(stat["pgfault"]);
  out.set_pg_maj_fault(stat["pgmajfault"]);
  out.set_inactive_anon(stat["inactive_anon"]);
  out.set_active_anon(stat["active_anon"]);
  out.set_inactive_file(stat["inactive_file"]);
  out.set_active_file(stat["active_file"]);
  out.set_unevictable(stat["unevictable"]);
  out.set_hierarchical_memory_limit(stats.memory_limit_bytes);
  out.set_total_cache(out.cache());
  out.set_total_rss(out.rss());
  out.set_total_rss_huge(out.rss_huge());
  out.set_total_mapped_file(out.mapped_file());
  out.set_total_dirty(out.dirty());
  out.set_total_writeback(out.writeback());
  out.set_total_pg_fault(out.pg_fault());
  out.set_total_pg_maj_fault(out.pg_maj_fault());
  out.set_total_inactive_anon(out.inactive_anon());
  out.set_total_active_anon(out.active_anon());
  // The kubelet's working set is the usage without this.
  out.set_total_inactive_file(out.inactive_file());
  out.set_total_active_file(out.active_file());
  out.set_total_unevictable(out.unevictable());
  auto& usage = *out.mutable_usage();
  usage.set_limit(stats.memory_limit_bytes);
  usage.set_usage(stats.memory_bytes);
  usage.set_max(stats.memory_peak_bytes);
  usage.set_failcnt(stats.memory_limit_hits);
  // v1 counts memory and swap together.
  auto& swap = *out.mutable_swap();
  swap.set_limit(sum(stats.memory_limit_bytes, stats.swap_limit_bytes));
  swap.set_usage(sum(stats.memory_bytes, stats.swap_bytes));
  // Since 5.18 Linux adds it up itself.
  const uint64_t kernel = stat["kernel"];
  const uint64_t parts = sum(sum(stat["kernel_stack"], stat["slab"]), stat["pagetables"]);
  out.mutable_kernel()->set_usage(kernel != 0 ? kernel : parts);
}

void add_block(const protocol::BlockStats& disk, const char* operation, uint64_t value,
               google::protobuf::RepeatedPtrField<api::cgroup1::BlkIOEntry>& list) {
  auto& entry = *list.Add();
  entry.set_op(operation);
  entry.set_major(disk.major);
  entry.set_minor(disk.minor);
  entry.set_value(value);
}

api::cgroup1::Metrics metrics_v1(const protocol::StatsReply& stats) {
  api::cgroup1::Metrics out;
  out.mutable_pids()->set_current(stats.pids);
  // 0 is v1's word for none.
  if (stats.pids_limit != protocol::kUnlimited) out.mutable_pids()->set_limit(stats.pids_limit);
  auto& usage = *out.mutable_cpu()->mutable_usage();
  usage.set_total(nanoseconds(stats.cpu_us));
  usage.set_user(nanoseconds(stats.cpu_user_us));
  usage.set_kernel(nanoseconds(stats.cpu_system_us));
  auto& throttling = *out.mutable_cpu()->mutable_throttling();
  throttling.set_periods(stats.periods);
  throttling.set_throttled_periods(stats.throttled_periods);
  throttling.set_throttled_time(nanoseconds(stats.throttled_us));
  fill_memory(stats, *out.mutable_memory());
  out.mutable_blkio();  // nerdctl takes for granted that it is there
  for (const protocol::BlockStats& disk : stats.block) {
    auto& bytes = *out.mutable_blkio()->mutable_io_service_bytes_recursive();
    add_block(disk, "read", disk.read_bytes, bytes);
    add_block(disk, "write", disk.written_bytes, bytes);
    auto& requests = *out.mutable_blkio()->mutable_io_serviced_recursive();
    add_block(disk, "read", disk.reads, requests);
    add_block(disk, "write", disk.writes, requests);
  }
  for (const auto& [size, pages] : stats.hugepages) {
    auto& entry = *out.add_hugetlb();
    entry.set_pagesize(size);
    entry.set_usage(pages.usage_bytes);
    entry.set_failcnt(pages.limit_hits);
  }
  return out;
}

void fill_memory(const protocol::StatsReply& stats, api::cgroup2::MemoryStat& out) {
  const MemoryStat stat(stats.memory_stat);
  out.set_anon(stat["anon"]);
  out.set_file(stat["file"]);
  out.set_kernel_stack(stat["kernel_stack"]);
  out.set_slab(stat["slab"]);
  out.set_sock(stat["sock"]);
  out.set_shmem(stat["shmem"]);
  out.set_file_mapped(stat["file_mapped"]);
  out.set_file_dirty(stat["file_dirty"]);
  out.set_file_writeback(stat["file_writeback"]);
  out.set_anon_thp(stat["anon_thp"]);
  out.set_inactive_anon(stat["inactive_anon"]);
  out.set_active_anon(stat["active_anon"]);
  out.set_inactive_file(stat["inactive_file"]);
  out.set_active_file(stat["active_file"]);
  out.set_unevictable(stat["unevictable"]);
  out.set_slab_reclaimable(stat["slab_reclaimable"]);
  out.set_slab_unreclaimable(stat["slab_unreclaimable"]);
  out.set_pgfault(stat["pgfault"]);
  out.set_pgmajfault(stat["pgmajfault"]);
  out.set_workingset_activate(stat["workingset_activate_anon"] + stat["workingset_activate_file"]);
  out.set_workingset_refault(stat["workingset_refault_anon"] + stat["workingset_refault_file"]);
  out.set_workingset_nodereclaim(stat["workingset_nodereclaim"]);
  out.set_pgrefill(stat["pgrefill"]);
  out.set_pgscan(stat["pgscan"]);
  out.set_pgsteal(stat["pgsteal"]);
  out.set_pgactivate(stat["pgactivate"]);
  out.set_pgdeactivate(stat["pgdeactivate"]);
  out.set_pglazyfree(stat["pglazyfree"]);
  out.set_pglazyfreed(stat["pglazyfreed"]);
  out.set_thp_fault_alloc(stat["thp_fault_alloc"]);
  out.set_thp_collapse_alloc(stat["thp_collapse_alloc"]);
  out.set_usage(stats.memory_bytes);
  out.set_usage_limit(stats.memory_limit_bytes);
  out.set_swap_usage(stats.swap_bytes);
  out.set_swap_limit(stats.swap_limit_bytes);
  out.set_max_usage(stats.memory_peak_bytes);
}

api::cgroup2::Metrics metrics_v2(const protocol::StatsReply& stats) {
  api::cgroup2::Metrics out;
  out.mutable_pids()->set_current(stats.pids);
  if (stats.pids_limit != protocol::kUnlimited) out.mutable_pids()->set_limit(stats.pids_limit);
  auto& cpu = *out.mutable_cpu();
  cpu.set_usage_usec(stats.cpu_us);
  cpu.set_user_usec(stats.cpu_user_us);
  cpu.set_system_usec(stats.cpu_system_us);
  cpu.set_nr_periods(stats.periods);
  cpu.set_nr_throttled(stats.throttled_periods);
  cpu.set_throttled_usec(stats.throttled_us);
  fill_memory(stats, *out.mutable_memory());
  out.mutable_memory_events()->set_max(stats.memory_limit_hits);
  out.mutable_io();  // as in metrics_v1
  for (const protocol::BlockStats& disk : stats.block) {
    auto& entry = *out.mutable_io()->add_usage();
    entry.set_major(disk.major);
    entry.set_minor(disk.minor);
    entry.set_rbytes(disk.read_bytes);
    entry.set_wbytes(disk.written_bytes);
    entry.set_rios(disk.reads);
    entry.set_wios(disk.writes);
  }
  for (const auto& [size, pages] : stats.hugepages) {
    auto& entry = *out.add_hugetlb();
    entry.set_pagesize(size);
    entry.set_current(pages.usage_bytes);
    entry.set_failcnt(pages.limit_hits);
  }
  return out;
}

}  // namespace

api::Any encode_stats(const protocol::StatsReply& stats, bool unified, uint64_t oom_kills) {
  api::Any out;
  out.set_type_url(unified ? "io.containerd.cgroups.v2.Metrics"
                           : "io.containerd.cgroups.v1.Metrics");
  if (unified) {
    auto metrics = metrics_v2(stats);
    metrics.mutable_memory_events()->set_oom_kill(oom_kills);
    out.set_value(metrics.SerializeAsString());
  } else {
    auto metrics = metrics_v1(stats);
    metrics.mutable_memory_oom_control()->set_oom_kill(oom_kills);
    out.set_value(metrics.SerializeAsString());
  }
  return out;
}

}  // namespace kiln::shim
