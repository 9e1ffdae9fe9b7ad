// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/log.h"
#include "runtime/cli/command.h"
#include "runtime/cli/flag_values.h"
#include "runtime/container_update.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxResourcesBytes = 1U << 20;

struct UpdateFlags {
  std::string id;
  std::string resources;
  int blkio_weight = 0;
  int pids_limit = 0;
  std::string cpu_period, cpu_quota, cpu_share, cpu_rt_period, cpu_rt_runtime;
  std::string cpuset_cpus, cpuset_mems;
  std::string memory, memory_reservation, memory_swap;
  std::string kernel_memory, kernel_memory_tcp;
  std::string l3_cache_schema, mem_bw_schema;
};

Result<Json> read_resources(const std::string& path) {
  const std::string text = path == "-" ? TRY(read_fd(STDIN_FILENO, kMaxResourcesBytes))
                                       : TRY(read_file(path, kMaxResourcesBytes));
  return wrap(parse_json(text), path);
}

// -1 is for unlimited.
Result<int64_t> memory_value(const std::string& text) {
  if (text == "-1") return -1;
  return parse_ram_bytes(text);
}

template <typename Value>
Result<void> put(Json& out, const char* member, const char* flag, const std::string& text,
                 Result<Value> (*parse)(const std::string&)) {
  if (text.empty()) return {};
  out[member] = TRY(wrap(parse(text), fmt::format("invalid value for {}", flag)));
  return {};
}

Result<Json> changes_of(const UpdateFlags& flags) {
  Json memory = Json::object();
  TRY(put(memory, "limit", "memory", flags.memory, memory_value));
  TRY(put(memory, "reservation", "memory-reservation", flags.memory_reservation, memory_value));
  TRY(put(memory, "swap", "memory-swap", flags.memory_swap, memory_value));
  Json cpu = Json::object();
  TRY(put(cpu, "period", "cpu-period", flags.cpu_period, parse_uint64));
  TRY(put(cpu, "quota", "cpu-quota", flags.cpu_quota, parse_int64));
  TRY(put(cpu, "shares", "cpu-share", flags.cpu_share, parse_uint64));
  TRY(put(cpu, "realtimePeriod", "cpu-rt-period", flags.cpu_rt_period, parse_uint64));
  TRY(put(cpu, "realtimeRuntime", "cpu-rt-runtime", flags.cpu_rt_runtime, parse_int64));
  if (!flags.cpuset_cpus.empty()) cpu["cpus"] = flags.cpuset_cpus;
  if (!flags.cpuset_mems.empty()) cpu["mems"] = flags.cpuset_mems;
  return Json{{"memory", std::move(memory)},
              {"cpu", std::move(cpu)},
              {"pids", {{"limit", flags.pids_limit}}},
              {"blockIO", {{"weight", flags.blkio_weight}}}};
}

Result<void> update(const Globals& globals, const UpdateFlags& flags) {
  const ContainerDir dir = TRY(open_container(globals, flags.id));
  if (!flags.kernel_memory.empty() || !flags.kernel_memory_tcp.empty())
    log_warning("Kernel memory settings are ignored and will be removed");
  if (!flags.l3_cache_schema.empty())
    return make_error(ErrorKind::kUnimplemented, "Intel RDT/CAT: l3 cache schema is not enabled");
  if (!flags.mem_bw_schema.empty())
    return make_error(ErrorKind::kUnimplemented,
                      "Intel RDT/MBA: memory bandwidth schema is not enabled");
  // As runc: with a file all other flags are ignored.
  if (!flags.resources.empty())
    return update_container(dir, TRY(read_resources(flags.resources)), flags.resources);
  return update_container(dir, TRY(changes_of(flags)), "update");
}

}  // namespace

void add_update(const Command& app, Globals& globals) {
  const Command command = app.subcommand("update", "update container resource constraints");
  const auto flags = std::make_shared<UpdateFlags>();
  command.option("container-id", flags->id, "the container").required();
  command.option("-r,--resources", flags->resources,
                 "file with a linux.resources object, or - for standard input; all other options "
                 "are then ignored");
  command.option("--blkio-weight", flags->blkio_weight, "block I/O weight, from 10 to 1000");
  command.option("--cpu-period", flags->cpu_period, "CPU period in microseconds");
  command.option("--cpu-quota", flags->cpu_quota, "CPU time in a period, in microseconds");
  command.option("--cpu-share", flags->cpu_share, "CPU shares, relative to other containers");
  command.option("--cpu-rt-period", flags->cpu_rt_period, "not supported");
  command.option("--cpu-rt-runtime", flags->cpu_rt_runtime, "not supported");
  command.option("--cpuset-cpus", flags->cpuset_cpus, "CPUs of the host to use");
  command.option("--cpuset-mems", flags->cpuset_mems, "memory nodes of the host to use");
  command.option("--kernel-memory", flags->kernel_memory, "ignored");
  command.option("--kernel-memory-tcp", flags->kernel_memory_tcp, "ignored");
  command.option("--memory", flags->memory, "memory limit; at most what its VM has");
  command.option("--memory-reservation", flags->memory_reservation,
                 "memory reservation or soft limit");
  command.option("--memory-swap", flags->memory_swap, "memory and swap together; -1: unlimited");
  command.option("--pids-limit", flags->pids_limit, "most processes; -1: unlimited");
  command.option("--l3-cache-schema", flags->l3_cache_schema, "not supported");
  command.option("--mem-bw-schema", flags->mem_bw_schema, "not supported");
  command.on_run(
      [&globals, flags] { globals.exit_code = report(globals, update(globals, *flags)); });
}

}  // namespace kiln::runtime
