// SPDX-License-Identifier: Apache-2.0
// What host and guest agent say to each other. No I/O here. Everything that the agent sends is
// input from an untrusted peer to the host, and is checked for type, size and range while decoding.
//
// Control: after boot the agent dials vsock CID 2 (the host), port kControlPort; the host accepts
// exactly one connection, before any container exists. Frames: 4-byte little-endian length + one
// JSON object.
//   host → agent  {"id": 7, "method": "create", "params": {…}}
//   agent → host  {"id": 7, "result": {…}}  or  {"id": 7, "error": {"kind": 3, "errno": 22,
//   "message": "…"}} agent → host  {"event": "exit", "params": {…}}
// Requests are answered in any order; several may be in flight.
//
// Streams: the agent listens on kStreamPort and takes connections from CID 2 only. The host sends
// one frame (StreamHeader); the agent answers one frame ({} or {"error": …}); then the connection
// is the raw byte stream. stdin: host → guest, ended by a half-close. stdout, stderr: guest → host.
// tty: both ways. fd:N: a descriptor that the host's caller passes (Passed); of a listener each
// stream is one more connection to it. serve:N: a connection to a socket that the container serves.
// port:N: a connection to TCP port N of the guest's localhost, 127.0.0.1 or else ::1; the
// container is the pod.
//
// Resolver: after method "resolver" the agent listens on kResolverAddress, port kResolverNamePort,
// and dials the host's kResolverPort for each peer that sends datagrams and for each TCP
// connection. The first byte says which: kResolverDatagrams, then frames both ways (4-byte
// little-endian length
// + one datagram of at most kMaxDatagramBytes); kResolverStream, then the bytes as they are. The
// host asks the name server at the same address in the sandbox's network namespace, and nobody
// else.
//
// Forwards: Unix sockets across the boundary (Forwards). Of those that the host serves the agent
// has one in the container, and dials the host's port of that container for each connection to it.
// The first bytes are the socket's token: every process of the guest can dial the port, and the
// agent alone knows the token, so that the socket's mode holds. Then the bytes as they are. Those
// that the container serves are streams: serve:N.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"

namespace kiln::protocol {

constexpr uint32_t kControlPort = 1024;
constexpr uint32_t kStreamPort = 1025;
constexpr uint32_t kResolverPort = 1026;
constexpr uint32_t kFirstForwardPort =
    1027;  // each container with forwards has a port from here on
constexpr uint32_t kForwardPorts = 1024;
constexpr int kProtocolVersion = 1;
constexpr size_t kMaxRequestBytes = 8U << 20;  // host → agent: holds a whole config.json
constexpr size_t kMaxReplyBytes = 1U << 20;    // agent → host
constexpr size_t kMaxStreamFrameBytes = 8192;  // StreamHeader and the answer to it
constexpr size_t kMaxIdBytes = 1024;           // of [A-Za-z0-9_+.-]; `.` and `..` are no ids
constexpr int64_t kMaxPid = 4 << 20;           // PID_MAX_LIMIT of a 64-bit Linux

constexpr uint32_t kResolverAddress = 0x7f00000b;  // 127.0.0.11, where Docker has its resolver
constexpr uint16_t kResolverNamePort = 53;
constexpr char kResolverDatagrams = 'u';
constexpr char kResolverStream = 't';
constexpr size_t kMaxDatagramBytes = 65535;

// First message of the agent (event "hello").
struct Hello {
  int protocol_version = 0;
  std::string agent_version;
  std::string kernel_release;
};

// Method "sandbox": the identity that a booted guest gets. Exactly once, before any container.
struct SandboxRequest {
  std::string hostname;     // of the guest itself; a container has its own UTS namespace
  int64_t realtime_ns = 0;  // the host's CLOCK_REALTIME; 0: leave the guest's
  std::string entropy_hex;  // mixed into the guest's pool
  std::string share_tag;    // virtio-fs tag to mount at kSharePath; empty: none
};

// Method "clock": a machine goes on that has stood still. The guest's CLOCK_REALTIME follows where
// it is off by more than the way here may take. Result {}.
struct ClockRequest {
  int64_t realtime_ns = 0;  // the host's
};
constexpr int64_t kClockToleranceNs = 200'000'000;

// Method "pod": makes the namespaces of a pod whose sandbox runs no process of its own, as its
// config says: ipc, uts with its names, pid, and linux.sysctl. Containers share them by `shared`.
// At most once, before any container shares them. Result {}. From then on "stats" takes the pod's
// id too: the use of all containers together.
struct PodRequest {
  std::string pod_id;
  Json config;  // runtime-spec: hostname, domainname, linux.namespaces, linux.sysctl
};

// Method "release". A drive that came while the machine ran, and that no container uses any more:
// its slot is given up, and the host may take it away. Result {}. kNotFound: no container has ever
// had it.
struct ReleaseRequest {
  std::string drive;  // its id
};

// Method "settle". Params {}. Before the machine stands still: answered once the end of every
// container whose init has ended has been told. Result {}.

constexpr size_t kMaxRootLayers = 12;  // of a machine's drives

// Where the agent mounts the share; entries of the synthetic root are its children.
constexpr const char* kSharePath = "/run/kiln/share";

// A file system on a drive of the machine.
struct Drive {
  std::string id;    // the drive's serial number, at most 20 bytes (virtio 1.2 §5.2.6)
  std::string type;  // of the file system, as mount(2) takes it
  bool read_only = false;
};

struct Rootfs {
  std::string entry;                // share entry that holds the root file system; or:
  std::optional<Drive> drive;       // the file system itself; or:
  bool overlay = false;             // put a writable tmpfs overlay on top of it (kiln box)
  uint64_t overlay_size_bytes = 0;  // 0: half of the guest's memory
  std::vector<Drive> layers = {};   // file systems that the guest overlays, the uppermost first
  std::optional<Drive> upper = {};  // with layers: one that gets what is written
};

// A descriptor that cannot enter the guest: the process gets one of its own kind in its place, and
// the host carries the bytes.
enum class Passed {
  kListener,  // a listening Unix stream socket, whatever its family is on the host
  kSocket,    // a connected Unix stream socket
  kReader,    // for a pipe's end for reading: a socket that can only be read
  kWriter,    // for its end for writing
};
constexpr size_t kMaxPassedFds = 32;
constexpr int kFirstPassedFd = 3;

// Which standard streams the host will dial. Others are /dev/null in the guest. With
// process.terminal only `tty` is used and the three are ignored.
struct StdioRequest {
  bool stdin_open = false;
  bool stdout_open = false;
  bool stderr_open = false;
  std::vector<Passed> passed = {};  // the process's descriptors from kFirstPassedFd on
};

// A socket of the host's, of which the container gets one.
struct ForwardedSocket {
  std::string token;  // kForwardTokenBytes hexadecimal digits
  uint32_t mode = 0;  // permissions, owner and group of the host's
  uint32_t uid = 0;
  uint32_t gid = 0;
};
constexpr size_t kForwardTokenBytes = 32;

struct Forwards {
  uint32_t port = 0;                          // of the host, for `sockets`
  std::map<size_t, ForwardedSocket> sockets;  // index in config.mounts, of a bind mount's kind
  std::vector<std::string> served;            // paths in the container

  bool empty() const { return sockets.empty() && served.empty(); }
};
constexpr size_t kMaxForwards = 16;  // of each kind
constexpr size_t kMaxServedPathBytes = 4095;

// A volume that the kubelet writes anew while containers use it (configMap, secret, …): its version
// is the directory that its link `..data` names. What is in one that gets a copy in the guest: file
// content in pages of 4 KiB, and names.
constexpr uint64_t kMaxVolumeBytes = 8U << 20;
constexpr size_t kMaxVolumeNames = 2048;

// Method "create": everything up to, but not including, exec of process.args; waits for "start".
struct CreateRequest {
  std::string container_id;
  Json config;  // the bundle's config.json, parsed and valid
  Rootfs rootfs;
  std::map<size_t, std::string>
      bind_entries;  // index in config.mounts → share entry of a bind mount's source
  std::map<size_t, Drive> mount_drives;  // index in config.mounts → what is to be mounted there
  std::map<size_t, std::string>
      device_drives;  // index in config.linux.devices → id of the drive that it is to be
  std::map<std::string, std::string>
      shared;  // "ipc", "uts", "pid" → the container, or the pod, whose namespace it joins
  StdioRequest stdio;
  // The mount, of a bind mount's kind, that gets a directory with a datagram socket of this name:
  // what arrives there is told by the event "notify" (sd_notify(3)).
  std::optional<size_t> notify_mount = std::nullopt;
  std::string notify_name = {};
  Forwards forwards = {};
  // Index in config.mounts, one of bind_entries, → the version of which the container gets a copy,
  // that "refresh" brings up to date; empty: there is none yet.
  std::map<size_t, std::string> volume_versions = {};
};
struct ProcessReply {
  int64_t pid = 0;  // in the guest's root pid namespace
};

// Method "start". Params: {"container": id}. Result {}. Runs startContainer hooks, then the
// process. Method "delete". Params: {"container": id}. All its processes must have ended. Result
// {}. Method "pause", "resume". Params: {"container": id}. The cgroup freezer. Result {}. Method
// "processes". Params: {"container": id}. Result: ProcessesReply. Method "shutdown". Params {}.
// Kills what runs, syncs and unmounts the share; result {}; then powers off. Method "resolver".
// Params {}. Listens for queries from now on, see above; once more does nothing. Result {}.
struct ContainerRequest {
  std::string container_id;
};

// Method "update": changes limits of the container's cgroup; what is absent stays as it is.
// Result {}.
struct UpdateRequest {
  std::string container_id;
  Json resources;  // runtime-spec's linux.resources
};

// Method "refresh": the container's copy of a volume goes over to another version. Result {}.
struct RefreshRequest {
  std::string container_id;
  size_t mount = 0;  // of volume_versions
  std::string version;
};

// Method "stats". Params: {"container": id}. Result: StatsReply, of the container's cgroup (v2).
constexpr uint64_t kUnlimited = UINT64_MAX;
struct BlockStats {
  uint32_t major = 0;
  uint32_t minor = 0;
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  uint64_t reads = 0;
  uint64_t writes = 0;
};
struct HugepageStats {
  uint64_t usage_bytes = 0;
  uint64_t limit_hits = 0;
};
struct StatsReply {
  uint64_t cpu_us = 0;
  uint64_t cpu_user_us = 0;
  uint64_t cpu_system_us = 0;
  uint64_t periods = 0;
  uint64_t throttled_periods = 0;
  uint64_t throttled_us = 0;
  uint64_t memory_bytes = 0;
  uint64_t memory_peak_bytes = 0;  // 0 where the kernel does not know it
  uint64_t memory_limit_bytes = kUnlimited;
  uint64_t memory_limit_hits = 0;
  uint64_t swap_bytes = 0;
  uint64_t swap_limit_bytes = kUnlimited;
  std::map<std::string, uint64_t> memory_stat;  // memory.stat
  uint64_t pids = 0;
  uint64_t pids_limit = kUnlimited;
  std::vector<BlockStats> block;
  std::map<std::string, HugepageStats> hugepages;  // by page size: 2MB
};

// Method "exec": starts at once; output waits in pipes until the host has dialled its streams.
struct ExecRequest {
  std::string container_id;
  std::string process_id;  // chosen by the host; unique within the container, not empty
  Json process;            // runtime-spec process object
  StdioRequest stdio;
};

// Method "signal".
struct SignalRequest {
  std::string container_id;
  std::string process_id;  // empty: the container's init
  int signal = 0;
  bool all = false;  // every process of the container's cgroup
};

// Method "resize".
struct ResizeRequest {
  std::string container_id;
  std::string process_id;
  uint16_t rows = 0;
  uint16_t columns = 0;
};

struct ProcessInfo {
  int64_t pid = 0;
  int64_t parent_pid = 0;
  uint32_t uid = 0;
  uint64_t cpu_time_ms = 0;
  int64_t start_time_unix = 0;
  std::string tty;  // "?" without one
  std::string command_line;
  std::string name;   // as the kernel has it: at most 15 bytes
  std::string state;  // of proc_pid_stat(5): one letter
  int64_t group = 0;
  int64_t session = 0;
  int nice = 0;
  int64_t threads = 1;
  uint64_t virtual_kib = 0;
  uint64_t resident_kib = 0;
};
struct ProcessesReply {
  std::vector<ProcessInfo> processes;
  uint64_t memory_kib = 0;  // of the whole guest
};

// Sent by the host as the first frame of a stream connection.
struct StreamHeader {
  std::string container_id;
  std::string process_id;  // empty: the container's init
  // "stdin", "stdout", "stderr", "tty", "fd:N" or, of init, "serve:N", or, of a pod, "port:N"
  std::string stream;
};
std::string passed_stream(size_t index);  // "fd:N" of the N-kFirstPassedFd'th of `passed`
std::optional<size_t> passed_index(std::string_view stream);
std::string served_stream(size_t index);  // "serve:N": a connection to the N'th of Forwards::served
std::optional<size_t> served_index(std::string_view stream);
std::string port_stream(uint16_t port);  // "port:N"; 0 is no port
std::optional<uint16_t> port_number(std::string_view stream);

// Event "exit". For init it comes after every process of the container is gone and its shares are
// synced.
struct ExitEvent {
  std::string container_id;
  std::string process_id;
  int exit_code = 0;         // 0..255, when signal is 0
  int signal = 0;            // 1..64
  bool oom_killed = false;   // the container's cgroup had an OOM kill
  int64_t exited_at_ns = 0;  // guest CLOCK_REALTIME
};

// Event "oom", at each OOM kill in the container's cgroup.
struct OomEvent {
  std::string container_id;
};

// Event "notify", for each datagram at the container's notification socket.
struct NotifyEvent {
  std::string container_id;
  std::vector<std::string> lines;  // NAME=value
};
constexpr size_t kMaxNotifyBytes = 4096;  // of a datagram; longer ones are dropped
constexpr size_t kMaxNotifyLines = 64;

struct Request {
  uint64_t id = 0;
  std::string method;
  Json params;
};
struct Reply {
  uint64_t id = 0;
  Json result;  // valid when !error
  std::optional<Error> error;
};
struct Event {
  std::string name;
  Json params;
};

// Encoding cannot fail. Decoding checks everything and never throws; messages name the JSON
// pointer; a member that we do not know is an error, because it would ask for something that is
// not done. `T` is each of the structs above that is a params or a result.
template <typename T>
Json to_json(const T& message);
template <typename T>
Result<T> from_json(const Json& value);

#define KILN_PROTOCOL_CODEC(T) \
  template <>                  \
  Json to_json<T>(const T&);   \
  template <>                  \
  Result<T> from_json<T>(const Json&)
// host → agent
KILN_PROTOCOL_CODEC(SandboxRequest);
KILN_PROTOCOL_CODEC(ClockRequest);
KILN_PROTOCOL_CODEC(PodRequest);
KILN_PROTOCOL_CODEC(ReleaseRequest);
KILN_PROTOCOL_CODEC(CreateRequest);
KILN_PROTOCOL_CODEC(ContainerRequest);
KILN_PROTOCOL_CODEC(ExecRequest);
KILN_PROTOCOL_CODEC(SignalRequest);
KILN_PROTOCOL_CODEC(ResizeRequest);
KILN_PROTOCOL_CODEC(UpdateRequest);
KILN_PROTOCOL_CODEC(RefreshRequest);
KILN_PROTOCOL_CODEC(StreamHeader);
// agent → host
KILN_PROTOCOL_CODEC(Hello);
KILN_PROTOCOL_CODEC(ProcessReply);
KILN_PROTOCOL_CODEC(ProcessesReply);
KILN_PROTOCOL_CODEC(StatsReply);
KILN_PROTOCOL_CODEC(ExitEvent);
KILN_PROTOCOL_CODEC(OomEvent);
KILN_PROTOCOL_CODEC(NotifyEvent);
#undef KILN_PROTOCOL_CODEC

std::string encode(const Request& request);
std::string encode(const Reply& reply);
std::string encode(const Event& event);

Result<Request> decode_request(std::string_view payload);

// What the host receives: exactly one of the two is set.
struct FromAgent {
  std::optional<Reply> reply;
  std::optional<Event> event;
};
Result<FromAgent> decode_from_agent(std::string_view payload);

// The two frames that open a stream connection. decode_stream_reply returns the agent's refusal as
// the error.
std::string encode(const StreamHeader& header);
Result<StreamHeader> decode_stream_header(std::string_view payload);
std::string encode_stream_reply(const std::optional<Error>& refusal);
Result<void> decode_stream_reply(std::string_view payload);

}  // namespace kiln::protocol
