// SPDX-License-Identifier: Apache-2.0
// host → agent: parameters of the methods, and the header of a stream.
#include <algorithm>
#include <array>
#include <charconv>

#include "agent/protocol/fields.h"
#include "agent/protocol/messages.h"
#include "base/format.h"

namespace kiln::protocol {
namespace {

constexpr size_t kMaxHostname = 64;  // __NEW_UTS_LEN
constexpr size_t kMaxShareTag = 36;  // virtio 1.2 §5.11.4: tag[36]
constexpr size_t kMaxEntropyHex = size_t{2} * 4096;
constexpr size_t kMaxIndex = 65535;
constexpr int64_t kMaxSignal = 64;
constexpr size_t kMaxDriveId = 20;  // virtio 1.2 §5.2.6: VIRTIO_BLK_ID_BYTES
constexpr size_t kMaxFileSystemType = 32;
constexpr size_t kMaxNotifyName = 64;
constexpr uint32_t kMaxMode = 0777;
constexpr int64_t kMaxOwner = UINT32_MAX - 1;  // the highest stands for nobody in chown(2)
constexpr std::string_view kPassedPrefix = "fd:";
constexpr std::string_view kServedPrefix = "serve:";
constexpr std::string_view kPortPrefix = "port:";
// By the value of Passed.
constexpr std::array<std::string_view, 4> kPassedNames{"listener", "socket", "reader", "writer"};

bool is_hex(std::string_view text) {
  return text.size() % 2 == 0 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
         });
}

std::optional<size_t> number_behind(std::string_view prefix, std::string_view text) {
  if (!text.starts_with(prefix)) return std::nullopt;
  text.remove_prefix(prefix.size());
  size_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

Json stdio_to_json(const StdioRequest& stdio) {
  Json passed = Json::array();
  for (const Passed kind : stdio.passed) passed.push_back(kPassedNames[static_cast<size_t>(kind)]);
  return {{"stdin", stdio.stdin_open},
          {"stdout", stdio.stdout_open},
          {"stderr", stdio.stderr_open},
          {"passed", std::move(passed)}};
}

Result<std::vector<Passed>> passed_from(Fields& fields) {
  std::vector<Passed> passed;
  if (!fields.has("passed")) return passed;
  const Json* list = TRY(fields.array("passed"));
  const std::string pointer = fields.pointer_to("passed");
  if (list->size() > kMaxPassedFds)
    return invalid_argument(fmt::format("{}: has more than {} entries", pointer, kMaxPassedFds));
  for (const Json& name : *list) {
    const auto* const found = name.is_string() ? std::find(kPassedNames.begin(), kPassedNames.end(),
                                                           name.get_ref<const std::string&>())
                                               : kPassedNames.end();
    if (found == kPassedNames.end())
      return invalid_argument(fmt::format("{}: has an unknown kind of descriptor", pointer));
    passed.push_back(static_cast<Passed>(found - kPassedNames.begin()));
  }
  return passed;
}

Result<StdioRequest> stdio_from(Fields& parent) {
  StdioRequest stdio;
  Fields fields = TRY(parent.nested("stdio"));
  stdio.stdin_open = TRY(fields.boolean_or("stdin", false));
  stdio.stdout_open = TRY(fields.boolean_or("stdout", false));
  stdio.stderr_open = TRY(fields.boolean_or("stderr", false));
  stdio.passed = TRY(passed_from(fields));
  TRY(fields.finish());
  return stdio;
}

Json drive_to_json(const Drive& drive) {
  return {{"id", drive.id}, {"type", drive.type}, {"readOnly", drive.read_only}};
}

Result<Drive> drive_of(Fields fields) {
  Drive drive;
  drive.id = TRY(fields.id("id"));
  if (drive.id.size() > kMaxDriveId)
    return invalid_argument(
        fmt::format("{}: must have at most {} bytes", fields.pointer_to("id"), kMaxDriveId));
  drive.type = TRY(fields.text("type", kMaxFileSystemType));
  if (!is_id(drive.type))
    return invalid_argument(fmt::format("{}: must be a file system's", fields.pointer_to("type")));
  drive.read_only = TRY(fields.boolean_or("readOnly", false));
  TRY(fields.finish());
  return drive;
}

Result<Drive> drive_from(Fields& parent, std::string_view key) {
  return drive_of(TRY(parent.nested(key)));
}

Result<std::vector<Drive>> layers_from(Fields& fields) {
  std::vector<Drive> layers;
  const Json* list = TRY(fields.array("layers"));
  const std::string pointer = fields.pointer_to("layers");
  if (list->empty() || list->size() > kMaxRootLayers)
    return invalid_argument(fmt::format("{}: must be 1 to {}", pointer, kMaxRootLayers));
  for (size_t i = 0; i < list->size(); ++i)
    layers.push_back(TRY(drive_of(TRY(Fields::of((*list)[i], fmt::format("{}/{}", pointer, i))))));
  return layers;
}

Result<Rootfs> rootfs_from(Fields& parent) {
  Rootfs rootfs;
  Fields fields = TRY(parent.nested("rootfs"));
  if (fields.has("drive") + fields.has("entry") + fields.has("layers") != 1)
    return invalid_argument(
        fmt::format("{}: must be an entry, a drive or layers", parent.pointer_to("rootfs")));
  if (fields.has("layers")) {
    rootfs.layers = TRY(layers_from(fields));
    if (fields.has("upper")) rootfs.upper = TRY(drive_from(fields, "upper"));
  } else if (fields.has("drive")) {
    rootfs.drive = TRY(drive_from(fields, "drive"));
  } else {
    rootfs.entry = TRY(fields.entry("entry"));
  }
  rootfs.overlay = TRY(fields.boolean_or("overlay", false));
  if (fields.has("overlaySize"))
    rootfs.overlay_size_bytes = TRY(fields.any_unsigned("overlaySize"));
  TRY(fields.finish());
  return rootfs;
}

// Object keys are strings: `{"3": "c1.mount3"}`. `read` takes the value of a key.
template <typename Value, typename Read>
Result<std::map<size_t, Value>> by_index(Fields& parent, std::string_view member,
                                         const Read& read) {
  std::map<size_t, Value> values;
  if (!parent.has(member)) return values;
  const Json* object = TRY(parent.object(member));
  Fields fields = TRY(Fields::of(*object, parent.pointer_to(member)));
  for (const auto& [key, value] : object->items()) {
    size_t index = 0;
    const char* end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, index);
    if (parsed.ec != std::errc() || parsed.ptr != end || index > kMaxIndex) {
      return invalid_argument(fmt::format("{}: must be an index", fields.pointer_to(key)));
    }
    Value taken = TRY(read(fields, key));
    if (!values.emplace(index, std::move(taken)).second)
      return invalid_argument(fmt::format("{}: is there twice", fields.pointer_to(key)));
  }
  return values;
}

Json forwards_to_json(const Forwards& forwards) {
  Json sockets = Json::object();
  for (const auto& [mount, socket] : forwards.sockets)
    sockets[fmt::format("{}", mount)] = {
        {"token", socket.token}, {"mode", socket.mode}, {"uid", socket.uid}, {"gid", socket.gid}};
  return {{"port", forwards.port}, {"sockets", std::move(sockets)}, {"served", forwards.served}};
}

Result<ForwardedSocket> forwarded_socket_from(Fields& parent, const std::string& key) {
  ForwardedSocket socket;
  Fields fields = TRY(parent.nested(key));
  socket.token = TRY(fields.text("token", kForwardTokenBytes));
  if (socket.token.size() != kForwardTokenBytes || !is_hex(socket.token))
    return invalid_argument(fmt::format("{}: must be {} hexadecimal digits",
                                        fields.pointer_to("token"), kForwardTokenBytes));
  socket.mode = static_cast<uint32_t>(TRY(fields.integer("mode", 0, kMaxMode)));
  socket.uid = static_cast<uint32_t>(TRY(fields.integer("uid", 0, kMaxOwner)));
  socket.gid = static_cast<uint32_t>(TRY(fields.integer("gid", 0, kMaxOwner)));
  TRY(fields.finish());
  return socket;
}

Result<std::vector<std::string>> served_from(Fields& fields) {
  std::vector<std::string> served;
  const Json* list = TRY(fields.array("served"));
  const std::string pointer = fields.pointer_to("served");
  if (list->size() > kMaxForwards)
    return invalid_argument(fmt::format("{}: has more than {} entries", pointer, kMaxForwards));
  for (const Json& entry : *list) {
    const std::string path = entry.is_string() ? entry.get<std::string>() : "";
    if (!path.starts_with('/') || path.size() > kMaxServedPathBytes ||
        path.find('\0') != std::string::npos)
      return invalid_argument(fmt::format("{}: must have absolute paths", pointer));
    served.push_back(path);
  }
  return served;
}

Result<Forwards> forwards_from(Fields& parent) {
  Forwards forwards;
  if (!parent.has("forwards")) return forwards;
  Fields fields = TRY(parent.nested("forwards"));
  forwards.port =
      static_cast<uint32_t>(TRY(fields.integer("port", 0, kFirstForwardPort + kForwardPorts - 1)));
  forwards.sockets =
      TRY(by_index<ForwardedSocket>(fields, "sockets", [](Fields& sockets, const std::string& key) {
        return forwarded_socket_from(sockets, key);
      }));
  if (forwards.sockets.size() > kMaxForwards)
    return invalid_argument(
        fmt::format("{}: has more than {} entries", fields.pointer_to("sockets"), kMaxForwards));
  if (!forwards.sockets.empty() && forwards.port < kFirstForwardPort)
    return invalid_argument(
        fmt::format("{}: must be from {}", fields.pointer_to("port"), kFirstForwardPort));
  forwards.served = TRY(served_from(fields));
  TRY(fields.finish());
  return forwards;
}

Result<std::map<size_t, std::string>> volume_versions_from(
    Fields& parent, const std::map<size_t, std::string>& bind_entries) {
  auto versions = TRY(by_index<std::string>(
      parent, "volumeVersions", [](Fields& volumes, const std::string& key) -> Result<std::string> {
        // Empty where there is none yet.
        if (TRY(volumes.text_or_empty(key, kMaxIdBytes)).empty()) return std::string();
        return volumes.entry(key);
      }));
  for (const auto& [index, version] : versions)
    if (!bind_entries.contains(index))
      return invalid_argument(fmt::format("/volumeVersions/{}: is no bind mount", index));
  return versions;
}

Result<std::map<std::string, std::string>> shared_from(Fields& parent) {
  std::map<std::string, std::string> shared;
  if (!parent.has("shared")) return shared;
  Fields fields = TRY(parent.nested("shared"));
  for (const char* type : {"ipc", "pid", "uts"}) {
    if (fields.has(type)) shared[type] = TRY(fields.id(type));
  }
  TRY(fields.finish());
  return shared;
}

Json rootfs_to_json(const Rootfs& rootfs) {
  Json out = {{"overlay", rootfs.overlay}, {"overlaySize", rootfs.overlay_size_bytes}};
  if (!rootfs.layers.empty()) {
    for (const Drive& layer : rootfs.layers) out["layers"].push_back(drive_to_json(layer));
    if (rootfs.upper) out["upper"] = drive_to_json(*rootfs.upper);
  } else if (rootfs.drive) {
    out["drive"] = drive_to_json(*rootfs.drive);
  } else {
    out["entry"] = rootfs.entry;
  }
  return out;
}

}  // namespace

std::string passed_stream(size_t index) {
  return fmt::format("{}{}", kPassedPrefix, index + kFirstPassedFd);
}

std::optional<size_t> passed_index(std::string_view stream) {
  const auto number = number_behind(kPassedPrefix, stream);
  if (!number || *number < kFirstPassedFd || *number >= kFirstPassedFd + kMaxPassedFds)
    return std::nullopt;
  return *number - kFirstPassedFd;
}

std::string served_stream(size_t index) { return fmt::format("{}{}", kServedPrefix, index); }

std::optional<size_t> served_index(std::string_view stream) {
  const auto number = number_behind(kServedPrefix, stream);
  return number && *number < kMaxForwards ? number : std::nullopt;
}

std::string port_stream(uint16_t port) { return fmt::format("{}{}", kPortPrefix, port); }

std::optional<uint16_t> port_number(std::string_view stream) {
  const auto number = number_behind(kPortPrefix, stream);
  if (!number || *number == 0 || *number > UINT16_MAX) return std::nullopt;
  return static_cast<uint16_t>(*number);
}

template <>
Json to_json(const SandboxRequest& request) {
  return {{"hostname", request.hostname},
          {"realtimeNs", request.realtime_ns},
          {"entropyHex", request.entropy_hex},
          {"shareTag", request.share_tag}};
}

template <>
Result<SandboxRequest> from_json(const Json& value) {
  SandboxRequest request;
  Fields fields = TRY(Fields::of(value, ""));
  request.hostname = TRY(fields.text_or_empty("hostname", kMaxHostname));
  request.realtime_ns = TRY(fields.integer_or("realtimeNs", 0, INT64_MAX, 0));
  request.entropy_hex = TRY(fields.text_or_empty("entropyHex", kMaxEntropyHex));
  if (!is_hex(request.entropy_hex))
    return invalid_argument("/entropyHex: must be pairs of hexadecimal digits");
  request.share_tag = TRY(fields.text_or_empty("shareTag", kMaxShareTag));
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const ClockRequest& request) {
  return {{"realtimeNs", request.realtime_ns}};
}

template <>
Result<ClockRequest> from_json(const Json& value) {
  Fields fields = TRY(Fields::of(value, ""));
  const ClockRequest request{TRY(fields.integer("realtimeNs", 1, INT64_MAX))};
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const PodRequest& request) {
  return {{"pod", request.pod_id}, {"config", request.config}};
}

template <>
Result<PodRequest> from_json(const Json& value) {
  Fields fields = TRY(Fields::of(value, ""));
  PodRequest request{TRY(fields.id("pod")), *TRY(fields.object("config"))};
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const ReleaseRequest& request) {
  return {{"drive", request.drive}};
}

template <>
Result<ReleaseRequest> from_json(const Json& value) {
  Fields fields = TRY(Fields::of(value, ""));
  ReleaseRequest request{TRY(fields.id("drive"))};
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const CreateRequest& request) {
  Json binds = Json::object();
  for (const auto& [index, entry] : request.bind_entries) binds[fmt::format("{}", index)] = entry;
  Json drives = Json::object();
  for (const auto& [index, drive] : request.mount_drives)
    drives[fmt::format("{}", index)] = drive_to_json(drive);
  Json devices = Json::object();
  for (const auto& [index, drive] : request.device_drives)
    devices[fmt::format("{}", index)] = drive;
  Json out = {{"container", request.container_id},        {"config", request.config},
              {"rootfs", rootfs_to_json(request.rootfs)}, {"bindEntries", std::move(binds)},
              {"mountDrives", std::move(drives)},         {"shared", request.shared},
              {"deviceDrives", std::move(devices)},       {"stdio", stdio_to_json(request.stdio)}};
  if (request.notify_mount)
    out["notify"] = {{"mount", *request.notify_mount}, {"name", request.notify_name}};
  if (!request.forwards.empty()) out["forwards"] = forwards_to_json(request.forwards);
  for (const auto& [index, version] : request.volume_versions)
    out["volumeVersions"][fmt::format("{}", index)] = version;
  return out;
}

template <>
Result<CreateRequest> from_json(const Json& value) {
  CreateRequest request;
  Fields fields = TRY(Fields::of(value, ""));
  request.container_id = TRY(fields.id("container"));
  request.config = *TRY(fields.object("config"));
  request.rootfs = TRY(rootfs_from(fields));
  request.bind_entries =
      TRY(by_index<std::string>(fields, "bindEntries", [](Fields& entries, const std::string& key) {
        return entries.entry(key);
      }));
  request.mount_drives =
      TRY(by_index<Drive>(fields, "mountDrives", [](Fields& drives, const std::string& key) {
        return drive_from(drives, key);
      }));
  request.device_drives =
      TRY(by_index<std::string>(fields, "deviceDrives", [](Fields& drives, const std::string& key) {
        return drives.id(key);
      }));
  request.shared = TRY(shared_from(fields));
  request.stdio = TRY(stdio_from(fields));
  if (fields.has("notify")) {
    Fields notify = TRY(fields.nested("notify"));
    request.notify_mount = static_cast<size_t>(TRY(notify.integer("mount", 0, kMaxIndex)));
    request.notify_name = TRY(notify.entry("name"));
    if (request.notify_name.size() > kMaxNotifyName)
      return invalid_argument(
          fmt::format("{}: must have at most {} bytes", notify.pointer_to("name"), kMaxNotifyName));
    TRY(notify.finish());
  }
  request.forwards = TRY(forwards_from(fields));
  request.volume_versions = TRY(volume_versions_from(fields, request.bind_entries));
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const ContainerRequest& request) {
  return {{"container", request.container_id}};
}

template <>
Result<ContainerRequest> from_json(const Json& value) {
  ContainerRequest request;
  Fields fields = TRY(Fields::of(value, ""));
  request.container_id = TRY(fields.id("container"));
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const ExecRequest& request) {
  return {{"container", request.container_id},
          {"process", request.process_id},
          {"spec", request.process},
          {"stdio", stdio_to_json(request.stdio)}};
}

template <>
Result<ExecRequest> from_json(const Json& value) {
  ExecRequest request;
  Fields fields = TRY(Fields::of(value, ""));
  request.container_id = TRY(fields.id("container"));
  request.process_id = TRY(fields.id("process"));
  request.process = *TRY(fields.object("spec"));
  request.stdio = TRY(stdio_from(fields));
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const SignalRequest& request) {
  return {{"container", request.container_id},
          {"process", request.process_id},
          {"signal", request.signal},
          {"all", request.all}};
}

template <>
Result<SignalRequest> from_json(const Json& value) {
  SignalRequest request;
  Fields fields = TRY(Fields::of(value, ""));
  request.container_id = TRY(fields.id("container"));
  request.process_id = TRY(fields.id_or_empty("process"));
  // 0 sends nothing and asks only whether the process is there (kill(2)).
  request.signal = static_cast<int>(TRY(fields.integer("signal", 0, kMaxSignal)));
  request.all = TRY(fields.boolean_or("all", false));
  if (request.all && !request.process_id.empty())
    return invalid_argument("/all: cannot be combined with a process");
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const ResizeRequest& request) {
  return {{"container", request.container_id},
          {"process", request.process_id},
          {"rows", request.rows},
          {"columns", request.columns}};
}

template <>
Result<ResizeRequest> from_json(const Json& value) {
  ResizeRequest request;
  Fields fields = TRY(Fields::of(value, ""));
  request.container_id = TRY(fields.id("container"));
  request.process_id = TRY(fields.id_or_empty("process"));
  request.rows = static_cast<uint16_t>(TRY(fields.integer("rows", 0, UINT16_MAX)));
  request.columns = static_cast<uint16_t>(TRY(fields.integer("columns", 0, UINT16_MAX)));
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const UpdateRequest& request) {
  return {{"container", request.container_id}, {"resources", request.resources}};
}

template <>
Result<UpdateRequest> from_json(const Json& value) {
  UpdateRequest request;
  Fields fields = TRY(Fields::of(value, ""));
  request.container_id = TRY(fields.id("container"));
  request.resources = *TRY(fields.object("resources"));
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const RefreshRequest& request) {
  return {
      {"container", request.container_id}, {"mount", request.mount}, {"version", request.version}};
}

template <>
Result<RefreshRequest> from_json(const Json& value) {
  RefreshRequest request;
  Fields fields = TRY(Fields::of(value, ""));
  request.container_id = TRY(fields.id("container"));
  request.mount = static_cast<size_t>(TRY(fields.integer("mount", 0, kMaxIndex)));
  request.version = TRY(fields.entry("version"));
  TRY(fields.finish());
  return request;
}

template <>
Json to_json(const StreamHeader& header) {
  return {{"container", header.container_id},
          {"process", header.process_id},
          {"stream", header.stream}};
}

template <>
Result<StreamHeader> from_json(const Json& value) {
  constexpr std::array<std::string_view, 4> kStreams{"stdin", "stdout", "stderr", "tty"};
  StreamHeader header;
  Fields fields = TRY(Fields::of(value, ""));
  header.container_id = TRY(fields.id("container"));
  header.process_id = TRY(fields.id_or_empty("process"));
  header.stream = TRY(fields.text("stream", 16));
  if (std::find(kStreams.begin(), kStreams.end(), header.stream) == kStreams.end() &&
      !passed_index(header.stream) && !served_index(header.stream) && !port_number(header.stream))
    return invalid_argument("/stream: must be stdin, stdout, stderr, tty, fd:N, serve:N or port:N");
  if (served_index(header.stream) && !header.process_id.empty())
    return invalid_argument("/process: a served socket is no other process's than init's");
  if (port_number(header.stream) && !header.process_id.empty())
    return invalid_argument("/process: a port is no process's");
  TRY(fields.finish());
  return header;
}

}  // namespace kiln::protocol
