// SPDX-License-Identifier: Apache-2.0
// state.json, and the processes that it names.
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <csignal>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/format.h"
#include "base/json.h"
#include "oci/parse.h"
#include "runtime/container_dir.h"

namespace kiln::runtime {
namespace {

constexpr size_t kMaxCgroupBytes = size_t{1} << 20;

struct ProcStat {
  char state = '?';
  uint64_t start_time = 0;
};

// /proc/<pid>/stat, whose second field may hold spaces and parentheses (proc(5)).
Result<ProcStat> read_stat(pid_t pid) {
  const std::string text = TRY(read_file(fmt::format("/proc/{}/stat", pid), 4096));
  size_t at = text.rfind(')');
  if (at == std::string::npos || at + 2 >= text.size())
    return make_error(ErrorKind::kInternal, "bad /proc/<pid>/stat");
  ProcStat out;
  out.state = text[at + 2];
  for (int field = 2; field < 22; ++field) at = text.find(' ', at + 1);
  if (at == std::string::npos) return make_error(ErrorKind::kInternal, "bad /proc/<pid>/stat");
  std::from_chars(text.data() + at + 1, text.data() + text.size(), out.start_time);
  return out;
}

Json hook_to_json(const oci::Hook& hook) {
  Json out{{"path", hook.path}, {"args", hook.args}, {"env", hook.env}};
  if (hook.timeout) out["timeout"] = *hook.timeout;
  return out;
}

oci::Hook hook_from_json(const Json& json) {
  oci::Hook hook;
  hook.path = json.at("path").get<std::string>();
  hook.args = json.at("args").get<oci::Strings>();
  hook.env = json.at("env").get<oci::Strings>();
  if (json.contains("timeout")) hook.timeout = json["timeout"].get<int32_t>();
  return hook;
}

Json cgroup_to_json(const HostCgroup& cgroup) {
  return {{"unified", cgroup.unified},
          {"unit", cgroup.unit},
          {"ofUser", cgroup.of_user},
          {"directories", cgroup.directories}};
}

HostCgroup cgroup_from_json(const Json& json) {
  HostCgroup cgroup;
  cgroup.unified = json.at("unified").get<bool>();
  cgroup.unit = json.at("unit").get<std::string>();
  cgroup.of_user = json.at("ofUser").get<bool>();
  cgroup.directories = json.at("directories").get<std::map<std::string, std::string>>();
  return cgroup;
}

Json socket_to_json(const SharedSocketRecord& socket) {
  return {{"share", socket.share},   {"below", socket.below}, {"name", socket.name},
          {"device", socket.device}, {"inode", socket.inode}, {"birth", socket.birth_ns}};
}

SharedSocketRecord socket_from_json(const Json& json) {
  return {json.at("share").get<std::string>(), json.at("below").get<std::string>(),
          json.at("name").get<std::string>(),  json.at("device").get<uint64_t>(),
          json.at("inode").get<uint64_t>(),    json.at("birth").get<int64_t>()};
}

}  // namespace

Result<ProcessId> identify_process(pid_t pid) {
  const auto stat = read_stat(pid);
  if (!stat) return make_error(ErrorKind::kNotFound, fmt::format("no process {}", pid));
  return ProcessId{pid, stat->start_time};
}

bool is_alive(const ProcessId& process) {
  if (process.pid <= 0) return false;
  const auto stat = read_stat(process.pid);
  return stat && stat->start_time == process.start_time && stat->state != 'Z' && stat->state != 'X';
}

Result<void> kill_process(const ProcessId& process, int timeout_ms) {
  if (process.pid <= 0) return {};
  // The pidfd first: whatever it refers to cannot change any more when the start time is compared.
  const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0)));
  if (!pidfd || !is_alive(process)) return {};
  if (syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0) != 0 && errno != ESRCH)
    return sys_error(fmt::format("kill process {}", process.pid));
  pollfd polled{pidfd.get(), POLLIN, 0};
  if (retry_eintr([&] { return poll(&polled, 1, timeout_ms); }) != 1)
    return make_error(ErrorKind::kDeadlineExceeded,
                      fmt::format("process {} does not die", process.pid));
  return {};
}

std::string encode_record(const ContainerRecord& record) {
  Json out = oci::to_json(record.state);
  Json& kiln = out["kiln"];
  kiln["monitorStartTime"] = record.monitor_start_time;
  kiln["poststopDue"] = record.poststop_due;
  kiln["terminal"] = record.terminal;
  kiln["oomKilled"] = record.oom_killed;
  kiln["process"] = oci::to_json(record.process);
  kiln["sandbox"] = record.sandbox;
  kiln["networkPath"] = record.network_path;
  kiln["networkInterfaces"] = record.network_interfaces;
  kiln["sharedSockets"] = Json::array();
  for (const SharedSocketRecord& socket : record.shared_sockets)
    kiln["sharedSockets"].push_back(socket_to_json(socket));
  kiln["helpers"] = Json::array();
  for (const ProcessId& helper : record.helpers)
    kiln["helpers"].push_back({{"pid", helper.pid}, {"startTime", helper.start_time}});
  kiln["poststop"] = Json::array();
  for (const oci::Hook& hook : record.poststop) kiln["poststop"].push_back(hook_to_json(hook));
  kiln["cgroup"] = cgroup_to_json(record.cgroup);
  kiln["machine"] = {{"memory", record.machine.memory_mib},
                     {"overhead", record.machine.overhead_mib},
                     {"vcpus", record.vcpus}};
  kiln["resources"] = oci::to_json(record.resources);
  if (record.exit_code) kiln["exitCode"] = *record.exit_code;
  return dump_json(out, 2) + "\n";
}

// Our own file in a directory of ours, yet a crash of another version may have left anything.
Result<ContainerRecord> decode_record(const std::string& text) {
  Json json = TRY(parse_json(text));
  try {
    const Json kiln = json.at("kiln");
    json.erase("kiln");
    ContainerRecord record;
    record.state = TRY(oci::parse_state(json));
    record.monitor_start_time = kiln.at("monitorStartTime").get<uint64_t>();
    record.poststop_due = kiln.at("poststopDue").get<bool>();
    record.terminal = kiln.at("terminal").get<bool>();
    record.oom_killed = kiln.at("oomKilled").get<bool>();
    record.sandbox = kiln.at("sandbox").get<std::string>();
    record.network_path = kiln.at("networkPath").get<std::string>();
    record.network_interfaces = kiln.at("networkInterfaces").get<std::vector<int>>();
    if (kiln.contains("exitCode")) record.exit_code = kiln["exitCode"].get<int>();
    for (const Json& socket : kiln.at("sharedSockets"))
      record.shared_sockets.push_back(socket_from_json(socket));
    for (const Json& helper : kiln.at("helpers"))
      record.helpers.push_back(
          {helper.at("pid").get<pid_t>(), helper.at("startTime").get<uint64_t>()});
    for (const Json& hook : kiln.at("poststop")) record.poststop.push_back(hook_from_json(hook));
    record.process = TRY(oci::parse_process(kiln.at("process"), "state.json"));
    record.cgroup = cgroup_from_json(kiln.at("cgroup"));
    const Json& machine = kiln.at("machine");
    record.machine = {machine.at("memory").get<uint64_t>(), machine.at("overhead").get<uint64_t>()};
    record.vcpus = machine.at("vcpus").get<unsigned>();
    record.resources = TRY(oci::parse_resources(kiln.at("resources"), "state.json"));
    return record;
  } catch (const Json::exception& error) {
    return make_error(ErrorKind::kDataLoss, fmt::format("not a record of ours: {}", error.what()));
  }
}

Result<void> ContainerDir::write_cgroup(const HostCgroup& cgroup) const {
  return write_file_atomic(file("cgroup.json"), dump_json(cgroup_to_json(cgroup)) + "\n", 0600);
}

Result<HostCgroup> ContainerDir::read_cgroup() const {
  const Json json = TRY(parse_json(TRY(read_file(file("cgroup.json"), kMaxCgroupBytes))));
  try {
    return cgroup_from_json(json);
  } catch (const Json::exception& error) {
    return make_error(ErrorKind::kDataLoss, fmt::format("not a cgroup of ours: {}", error.what()));
  }
}

}  // namespace kiln::runtime
