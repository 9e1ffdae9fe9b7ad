// SPDX-License-Identifier: Apache-2.0
// agent → host: results and parameters of events. The host decodes them, so every field is
// guest-controlled here.
#include "agent/protocol/fields.h"
#include "agent/protocol/messages.h"
#include "base/format.h"

namespace kiln::protocol {
namespace {

constexpr size_t kMaxVersion = 128;
constexpr size_t kMaxTty = 64;
constexpr size_t kMaxCommandLine = 4096;
constexpr size_t kMaxName = 64;
constexpr int64_t kMaxSignal = 64;

Json info_to_json(const ProcessInfo& info) {
  return {{"pid", info.pid},
          {"parentPid", info.parent_pid},
          {"uid", info.uid},
          {"cpuTimeMs", info.cpu_time_ms},
          {"startTime", info.start_time_unix},
          {"tty", info.tty},
          {"commandLine", info.command_line},
          {"name", info.name},
          {"state", info.state},
          {"group", info.group},
          {"session", info.session},
          {"nice", info.nice},
          {"threads", info.threads},
          {"virtualKib", info.virtual_kib},
          {"residentKib", info.resident_kib}};
}

Result<ProcessInfo> info_from(const Json& value, std::string pointer) {
  ProcessInfo info;
  Fields fields = TRY(Fields::of(value, std::move(pointer)));
  info.pid = TRY(fields.integer("pid", 1, kMaxPid));
  info.parent_pid = TRY(fields.integer("parentPid", 0, kMaxPid));
  info.uid = static_cast<uint32_t>(TRY(fields.integer("uid", 0, UINT32_MAX)));
  info.cpu_time_ms = TRY(fields.any_unsigned("cpuTimeMs"));
  info.start_time_unix = TRY(fields.integer("startTime", 0, INT64_MAX));
  info.tty = TRY(fields.text("tty", kMaxTty));
  info.command_line = TRY(fields.text("commandLine", kMaxCommandLine));
  info.name = TRY(fields.text("name", kMaxName));
  info.state = TRY(fields.text("state", 1));
  info.group = TRY(fields.integer("group", 0, kMaxPid));
  info.session = TRY(fields.integer("session", 0, kMaxPid));
  info.nice = static_cast<int>(TRY(fields.integer("nice", -20, 19)));
  info.threads = TRY(fields.integer("threads", 0, kMaxPid));
  info.virtual_kib = TRY(fields.any_unsigned("virtualKib"));
  info.resident_kib = TRY(fields.any_unsigned("residentKib"));
  TRY(fields.finish());
  return info;
}

}  // namespace

template <>
Json to_json(const Hello& hello) {
  return {{"protocolVersion", hello.protocol_version},
          {"agentVersion", hello.agent_version},
          {"kernelRelease", hello.kernel_release}};
}

template <>
Result<Hello> from_json(const Json& value) {
  Hello hello;
  Fields fields = TRY(Fields::of(value, ""));
  hello.protocol_version = static_cast<int>(TRY(fields.integer("protocolVersion", 1, INT32_MAX)));
  hello.agent_version = TRY(fields.text("agentVersion", kMaxVersion));
  hello.kernel_release = TRY(fields.text("kernelRelease", kMaxVersion));
  TRY(fields.finish());
  return hello;
}

template <>
Json to_json(const ProcessReply& reply) {
  return {{"pid", reply.pid}};
}

template <>
Result<ProcessReply> from_json(const Json& value) {
  ProcessReply reply;
  Fields fields = TRY(Fields::of(value, ""));
  reply.pid = TRY(fields.integer("pid", 1, kMaxPid));
  TRY(fields.finish());
  return reply;
}

template <>
Json to_json(const ProcessesReply& reply) {
  Json list = Json::array();
  for (const ProcessInfo& info : reply.processes) list.push_back(info_to_json(info));
  return {{"processes", std::move(list)}, {"memoryKib", reply.memory_kib}};
}

template <>
Result<ProcessesReply> from_json(const Json& value) {
  ProcessesReply reply;
  Fields fields = TRY(Fields::of(value, ""));
  const Json* list = TRY(fields.array("processes"));
  reply.memory_kib = TRY(fields.any_unsigned("memoryKib"));
  TRY(fields.finish());
  reply.processes.reserve(list->size());
  for (size_t i = 0; i < list->size(); ++i)
    reply.processes.push_back(TRY(info_from((*list)[i], fmt::format("/processes/{}", i))));
  return reply;
}

template <>
Json to_json(const ExitEvent& event) {
  return {{"container", event.container_id}, {"process", event.process_id},
          {"exitCode", event.exit_code},     {"signal", event.signal},
          {"oomKilled", event.oom_killed},   {"exitedAtNs", event.exited_at_ns}};
}

template <>
Result<ExitEvent> from_json(const Json& value) {
  ExitEvent event;
  Fields fields = TRY(Fields::of(value, ""));
  event.container_id = TRY(fields.id("container"));
  event.process_id = TRY(fields.id_or_empty("process"));
  event.exit_code = static_cast<int>(TRY(fields.integer("exitCode", 0, 255)));
  event.signal = static_cast<int>(TRY(fields.integer("signal", 0, kMaxSignal)));
  if (event.exit_code != 0 && event.signal != 0)
    return invalid_argument("/exitCode: must be 0 when there is a signal");
  event.oom_killed = TRY(fields.boolean_or("oomKilled", false));
  event.exited_at_ns = TRY(fields.integer("exitedAtNs", 0, INT64_MAX));
  TRY(fields.finish());
  return event;
}

template <>
Json to_json(const OomEvent& event) {
  return {{"container", event.container_id}};
}

template <>
Result<OomEvent> from_json(const Json& value) {
  OomEvent event;
  Fields fields = TRY(Fields::of(value, ""));
  event.container_id = TRY(fields.id("container"));
  TRY(fields.finish());
  return event;
}

template <>
Json to_json(const NotifyEvent& event) {
  return {{"container", event.container_id}, {"lines", event.lines}};
}

template <>
Result<NotifyEvent> from_json(const Json& value) {
  NotifyEvent event;
  Fields fields = TRY(Fields::of(value, ""));
  event.container_id = TRY(fields.id("container"));
  const Json* lines = TRY(fields.array("lines"));
  TRY(fields.finish());
  if (lines->size() > kMaxNotifyLines)
    return invalid_argument(fmt::format("/lines: has more than {} entries", kMaxNotifyLines));
  size_t bytes = 0;
  for (const Json& line : *lines) {
    if (!line.is_string()) return invalid_argument("/lines: must be strings");
    event.lines.push_back(printable(line.get<std::string>()));
    bytes += event.lines.back().size() + 1;
  }
  // A byte that is not UTF-8 takes three on its way.
  if (bytes > 3 * (kMaxNotifyBytes + 1))
    return invalid_argument("/lines: are longer than a datagram may be");
  return event;
}

}  // namespace kiln::protocol
