// SPDX-License-Identifier: Apache-2.0
// The methods of agent/protocol/messages.h, one function each.
#include <malloc.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>

#include "agent/core/server.h"
#include "base/format.h"
#include "base/log.h"
#include "oci/parse.h"

namespace kiln::agent {
namespace {

std::string share_path(const std::string& entry) {
  return fmt::format("{}/{}", protocol::kSharePath, entry);
}

std::optional<Json> nothing() { return Json::object(); }

}  // namespace

const Server::Method Server::kMethods[] = {
    {"sandbox", &Server::sandbox},     {"create", &Server::create_container},
    {"start", &Server::start},         {"delete", &Server::delete_container},
    {"pause", &Server::pause},         {"resume", &Server::resume},
    {"processes", &Server::processes}, {"exec", &Server::exec},
    {"signal", &Server::signal},       {"resize", &Server::resize},
    {"update", &Server::update},       {"stats", &Server::stats},
    {"shutdown", &Server::shutdown},   {"network", &Server::network},
    {"resolver", &Server::resolver},   {"clock", &Server::clock},
    {"settle", &Server::settle},       {"pod", &Server::pod},
    {"refresh", &Server::refresh},     {"release", &Server::release},
};

Server::Answer Server::dispatch(const protocol::Request& request) {
  if (shutdown_id_) return make_error(ErrorKind::kFailedPrecondition, "the guest is shutting down");
  for (const Method& method : kMethods)
    if (request.method == method.name) return (this->*method.run)(request.id, request.params);
  return make_error(ErrorKind::kUnimplemented,
                    fmt::format("the guest agent has no method `{}`", request.method));
}

Result<ContainerEntry*> Server::find_in(const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::ContainerRequest>(params));
  return find(request.container_id);
}

ContainerEntry::Context Server::entry_context() {
  return {loop_, reaper_, guest_,
          [this](const protocol::ExitEvent& event) {
            tell("exit", protocol::to_json(event));
            answer_settled();
            // Not from within the entry that reports it.
            if (shutdown_id_) loop_.defer([this] { continue_shutdown(); });
          },
          [this](const protocol::OomEvent& event) { tell("oom", protocol::to_json(event)); }};
}

Server::Answer Server::sandbox(uint64_t /*id*/, const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::SandboxRequest>(params));
  if (adopted_)
    return make_error(ErrorKind::kFailedPrecondition, "the guest has its identity already");
  TRY(guest_.adopt(request));
  adopted_ = true;
  return nothing();
}

Server::Answer Server::clock(uint64_t /*id*/, const Json& params) {
  TRY(guest_.correct_clock(TRY(protocol::from_json<protocol::ClockRequest>(params)).realtime_ns));
  return nothing();
}

Server::Answer Server::settle(uint64_t id, const Json& params) {
  if (!params.empty()) return invalid_argument("settle takes no parameters");
  if (settled()) return nothing();
  settle_ids_.push_back(id);
  return std::optional<Json>();
}

bool Server::settled() const {
  return std::none_of(containers_.begin(), containers_.end(),
                      [](const auto& item) { return item.second->ending(); });
}

void Server::answer_settled() {
  if (!settled()) return;
  for (const uint64_t id : std::exchange(settle_ids_, {})) reply(id, Json::object());
}

Server::Answer Server::network(uint64_t /*id*/, const Json& params) {
  TRY(guest_.configure_network(TRY(protocol::from_json<protocol::NetworkRequest>(params))));
  return nothing();
}

Server::Answer Server::resolver(uint64_t /*id*/, const Json& params) {
  if (!params.empty()) return invalid_argument("resolver takes no parameters");
  if (resolver_) return nothing();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(protocol::kResolverAddress);
  address.sin_port = htons(protocol::kResolverNamePort);
  resolver_ = TRY(
      Resolver::listen(loop_, address, [this] { return guest_.dial(protocol::kResolverPort); }));
  return nothing();
}

Server::Answer Server::pod(uint64_t /*id*/, const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::PodRequest>(params));
  if (!adopted_) return make_error(ErrorKind::kFailedPrecondition, "the guest has no identity yet");
  if (pod_ || containers_.contains(request.pod_id))
    return make_error(ErrorKind::kAlreadyExists,
                      fmt::format("pod `{}`: there is one already", request.pod_id));
  pod_ = TRY(pod_factory_(TRY(oci::parse_spec(request.config))));
  pod_id_ = request.pod_id;
  return nothing();
}

Server::Answer Server::create_container(uint64_t /*id*/, const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::CreateRequest>(params));
  if (!adopted_) return make_error(ErrorKind::kFailedPrecondition, "the guest has no identity yet");
  if (containers_.contains(request.container_id) || is_pod(request.container_id)) {
    return make_error(ErrorKind::kAlreadyExists,
                      fmt::format("container `{}` exists", request.container_id));
  }
  oci::Spec spec = TRY(oci::parse_spec(request.config));
  TRY(prepare_devices(request, spec));
  if (!spec.process) return invalid_argument("config.json: /process: must be there to be created");
  ContainerSetup setup;
  setup.id = request.container_id;
  setup.spec = &spec;
  if (!request.rootfs.layers.empty()) {
    for (const protocol::Drive& layer : request.rootfs.layers)
      setup.root_layers.push_back(TRY(block_source(layer)));
    if (request.rootfs.upper) setup.root_upper = TRY(block_source(*request.rootfs.upper));
  } else if (request.rootfs.drive) {
    setup.root_device = TRY(block_source(*request.rootfs.drive));
  } else {
    setup.rootfs = share_path(request.rootfs.entry);
  }
  setup.overlay = request.rootfs.overlay;
  setup.overlay_size_bytes = request.rootfs.overlay_size_bytes;
  for (const auto& [index, entry] : request.bind_entries) {
    if (index >= spec.mounts.size())
      return invalid_argument(fmt::format("/bindEntries/{}: no such mount", index));
    setup.bind_sources[index] = share_path(entry);
  }
  setup.volume_versions = request.volume_versions;  // of bind_entries alone
  for (const auto& [index, drive] : request.mount_drives) {
    if (index >= spec.mounts.size())
      return invalid_argument(fmt::format("/mountDrives/{}: no such mount", index));
    setup.mount_devices[index] = TRY(block_source(drive));
  }
  TRY(find_shared(request, setup));
  const auto notify = TRY(notify_socket(request, setup));
  auto forwards = TRY(forward_sockets(request, setup));
  auto entry = TRY(ContainerEntry::create(entry_context(), factory_, setup, request.stdio));
  entry->keep(notify);
  entry->keep(std::move(forwards));
  entry->serve(request.forwards.served);
  const protocol::ProcessReply reply{entry->init_pid()};
  containers_[request.container_id] = std::move(entry);
  // A large config.json has been parsed.
  malloc_trim(0);
  return protocol::to_json(reply);
}

// A block device of the host is a drive here, with a number of the guest's own: the node and the
// rules for it get that.
Result<void> Server::prepare_devices(const protocol::CreateRequest& request, oci::Spec& spec) {
  for (const auto& [index, drive] : request.device_drives) {
    if (index >= spec.linux.devices.size())
      return invalid_argument(fmt::format("/deviceDrives/{}: no such device", index));
    oci::Device& device = spec.linux.devices[index];
    const std::string path = TRY(guest_.prepare_drive({drive, "", false}));
    struct stat info {};
    if (stat(path.c_str(), &info) != 0) return sys_error(fmt::format("stat `{}`", path));
    const int64_t host_major = device.major;
    const int64_t host_minor = device.minor;
    device.major = major(info.st_rdev);
    device.minor = minor(info.st_rdev);
    if (!spec.linux.resources) continue;
    for (oci::DeviceRule& rule : spec.linux.resources->devices) {
      if (rule.type != "b" || rule.major != host_major || rule.minor != host_minor) continue;
      rule.major = device.major;
      rule.minor = device.minor;
    }
  }
  // A privileged container's are whatever the host has: what is not here, nobody has asked for.
  const bool tolerant = oci::allows_all_devices(spec.linux);
  std::vector<oci::Device> devices;
  for (oci::Device& device : spec.linux.devices) {
    if (device.type == "c" || device.type == "u") {
      auto prepared = guest_.prepare_device(device);
      if (!prepared && tolerant) continue;
      TRY(std::move(prepared));
    }
    devices.push_back(std::move(device));
  }
  spec.linux.devices = std::move(devices);
  return {};
}

Result<void> Server::find_shared(const protocol::CreateRequest& request, ContainerSetup& setup) {
  const std::pair<const char*, int> types[] = {
      {"ipc", CLONE_NEWIPC}, {"pid", CLONE_NEWPID}, {"uts", CLONE_NEWUTS}};
  for (const auto& [type, flag] : types) {
    const auto found = request.shared.find(type);
    if (found == request.shared.end()) continue;
    if (is_pod(found->second)) {
      setup.shared.push_back({TRY(pod_->namespace_fd(flag)), flag});
      continue;
    }
    const int pidfd = TRY(find(found->second))->init_pidfd();
    if (pidfd < 0)
      return make_error(ErrorKind::kFailedPrecondition,
                        fmt::format("share the {} namespace of container `{}`: it has ended", type,
                                    found->second));
    setup.shared.push_back({pidfd, flag});
  }
  return {};
}

// Held by the container; the setup gets the directory to be mounted.
Result<std::shared_ptr<NotifySocket>> Server::notify_socket(const protocol::CreateRequest& request,
                                                            ContainerSetup& setup) {
  if (!request.notify_mount) return std::shared_ptr<NotifySocket>();
  const size_t mount = *request.notify_mount;
  if (mount >= setup.spec->mounts.size() || setup.bind_sources.contains(mount) ||
      setup.mount_devices.contains(mount))
    return invalid_argument(fmt::format("/notify/mount: {} is no mount of its own", mount));
  std::shared_ptr<NotifySocket> socket = TRY(NotifySocket::create(
      loop_, run_directory_, request.notify_name,
      [this, id = request.container_id](std::vector<std::string> lines) {
        tell("notify", protocol::to_json(protocol::NotifyEvent{id, std::move(lines)}));
      }));
  setup.bind_sources[mount] = socket->directory();
  return socket;
}

// Held by the container; the setup gets the sockets as what is to be mounted.
Result<std::vector<std::unique_ptr<ForwardSocket>>> Server::forward_sockets(
    const protocol::CreateRequest& request, ContainerSetup& setup) {
  std::vector<std::unique_ptr<ForwardSocket>> sockets;
  for (const auto& [mount, socket] : request.forwards.sockets) {
    if (mount >= setup.spec->mounts.size() || setup.bind_sources.contains(mount) ||
        setup.mount_devices.contains(mount))
      return invalid_argument(fmt::format("/forwards/sockets/{}: is no mount of its own", mount));
    sockets.push_back(TRY(
        ForwardSocket::listen(loop_, run_directory_, socket,
                              [this, port = request.forwards.port] { return guest_.dial(port); })));
    setup.bind_sources[mount] = sockets.back()->path();
  }
  return sockets;
}

Result<BlockSource> Server::block_source(const protocol::Drive& drive) {
  return BlockSource{TRY(guest_.prepare_drive(drive)), drive.type, drive.read_only};
}

Server::Answer Server::start(uint64_t id, const Json& params) {
  ContainerEntry* entry = TRY(find_in(params));
  TRY(entry->start([this, id](Result<void> outcome) {
    reply(id, outcome ? Result<Json>(Json::object())
                      : Result<Json>(tl::unexpected(std::move(outcome.error()))));
  }));
  return std::optional<Json>();
}

Server::Answer Server::delete_container(uint64_t /*id*/, const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::ContainerRequest>(params));
  ContainerEntry* entry = TRY(find(request.container_id));
  if (!entry->ended()) {
    return make_error(ErrorKind::kFailedPrecondition,
                      fmt::format("container `{}` is still running", request.container_id));
  }
  // After a failure it can be tried again.
  TRY(entry->destroy());
  containers_.erase(request.container_id);
  return nothing();
}

Server::Answer Server::pause(uint64_t /*id*/, const Json& params) {
  ContainerEntry* entry = TRY(find_in(params));
  TRY(entry->freeze(true));
  return nothing();
}

Server::Answer Server::resume(uint64_t /*id*/, const Json& params) {
  ContainerEntry* entry = TRY(find_in(params));
  TRY(entry->freeze(false));
  return nothing();
}

Server::Answer Server::processes(uint64_t /*id*/, const Json& params) {
  ContainerEntry* entry = TRY(find_in(params));
  return protocol::to_json(TRY(entry->processes()));
}

Server::Answer Server::update(uint64_t /*id*/, const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::UpdateRequest>(params));
  ContainerEntry* entry = TRY(find(request.container_id));
  TRY(entry->update(TRY(oci::parse_resources(request.resources, "update"))));
  return nothing();
}

Server::Answer Server::refresh(uint64_t /*id*/, const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::RefreshRequest>(params));
  ContainerEntry* entry = TRY(find(request.container_id));
  TRY(entry->refresh(request.mount, request.version));
  return nothing();
}

Server::Answer Server::release(uint64_t /*id*/, const Json& params) {
  TRY(guest_.release_drive(TRY(protocol::from_json<protocol::ReleaseRequest>(params)).drive));
  return nothing();
}

Server::Answer Server::stats(uint64_t /*id*/, const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::ContainerRequest>(params));
  if (is_pod(request.container_id)) return protocol::to_json(TRY(pod_->stats()));
  ContainerEntry* entry = TRY(find(request.container_id));
  return protocol::to_json(TRY(entry->stats()));
}

Server::Answer Server::exec(uint64_t /*id*/, const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::ExecRequest>(params));
  ContainerEntry* entry = TRY(find(request.container_id));
  const oci::Process process = TRY(oci::parse_process(request.process));
  const pid_t pid = TRY(entry->exec(request.process_id, process, request.stdio));
  return protocol::to_json(protocol::ProcessReply{pid});
}

Server::Answer Server::signal(uint64_t /*id*/, const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::SignalRequest>(params));
  ContainerEntry* entry = TRY(find(request.container_id));
  TRY(entry->signal(request));
  return nothing();
}

Server::Answer Server::resize(uint64_t /*id*/, const Json& params) {
  const auto request = TRY(protocol::from_json<protocol::ResizeRequest>(params));
  ContainerEntry* entry = TRY(find(request.container_id));
  TRY(entry->resize(request));
  return nothing();
}

}  // namespace kiln::agent
