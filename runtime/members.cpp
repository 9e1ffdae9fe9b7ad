// SPDX-License-Identifier: Apache-2.0
#include "runtime/members.h"

#include <algorithm>
#include <csignal>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/log.h"

namespace kiln::runtime {
namespace {

constexpr int64_t kRemoveTimeoutMs = 30'000;

// What a member's monitor may ask the agent for: all of it names the container.
constexpr const char* kMethods[] = {"create", "start",  "pause", "resume", "processes", "exec",
                                    "signal", "resize", "stats", "update", "refresh"};

tl::unexpected<Error> no_member(const std::string& id) {
  return make_error(ErrorKind::kNotFound, fmt::format("container `{}` has not joined", id));
}

}  // namespace

bool Members::handle(ControlServer::ConnectionId connection, const protocol::Request& request,
                     const ControlServer::Reply& reply) {
  if (request.method == "join") {
    join(connection, request.params.at("container").get<std::string>(), reply);
  } else if (request.method == "share") {
    share(connection, request.params, reply);
  } else if (request.method == "drive") {
    drive(connection, request.params, reply);
  } else if (request.method == "leave") {
    leave(connection, request.params, reply);
  } else if (request.method == "agent") {
    ask_agent(connection, request.params, reply);
  } else {
    return false;
  }
  return true;
}

void Members::join(ControlServer::ConnectionId connection, const std::string& id,
                   const ControlServer::Reply& reply) {
  if (const auto found = members_.find(id); found != members_.end()) {
    if (!found->second.abandoned || found->second.next)
      return reply(make_error(ErrorKind::kAlreadyExists,
                              fmt::format("container `{}` has joined already", id)));
    // Restarted by its engine, faster than its last life ends in the guest.
    found->second.next = [this, connection, id, reply] { join(connection, id, reply); };
    return;
  }
  Member member;
  member.connection = connection;
  member.prefix = fmt::format("c{}-", next_prefix_++);
  const std::string prefix = member.prefix;
  members_.emplace(id, std::move(member));
  reply(Json{{"prefix", prefix}, {"vsock", sandbox_.vsock_path()}});
}

void Members::share(ControlServer::ConnectionId connection, const Json& params,
                    const ControlServer::Reply& reply) {
  std::vector<UniqueFd> fds = server_.take_fds(connection);
  const auto found = members_.find(params.at("container").get<std::string>());
  if (found == members_.end()) return reply(no_member(params.at("container").get<std::string>()));
  if (fds.size() != 1) return reply(invalid_argument("a share is one descriptor"));
  Share share;
  share.entry = params.at("entry").get<std::string>();
  share.source = params.at("source").get<std::string>();
  share.fd = std::move(fds.front());
  share.read_only = params.at("readOnly").get<bool>();
  share.same_for_all = params.at("sameForAll").get<bool>();
  if (!share.entry.starts_with(found->second.prefix))
    return reply(invalid_argument(fmt::format("share `{}` is not the container's", share.entry)));
  const auto added = sandbox_.add_share(share);
  if (!added) return reply(tl::unexpected(added.error()));
  found->second.entries.push_back(*added);
  reply(Json{{"entry", *added}});
}

void Members::drive(ControlServer::ConnectionId connection, const Json& params,
                    const ControlServer::Reply& reply) {
  std::vector<UniqueFd> fds = server_.take_fds(connection);
  const auto id = params.at("container").get<std::string>();
  const auto found = members_.find(id);
  if (found == members_.end()) return reply(no_member(id));
  if (fds.size() != 1) return reply(invalid_argument("a drive is one descriptor"));
  vmm::DriveConfig config;
  config.drive_id = found->second.prefix + params.at("drive").get<std::string>();
  config.fd = fds.front().get();
  config.is_read_only = params.at("readOnly").get<bool>();
  if (auto attached = sandbox_.attach_drive(config); !attached)
    return reply(tl::unexpected(std::move(attached.error())));
  found->second.drives.push_back(config.drive_id);
  reply(Json{{"drive", config.drive_id}});
}

void Members::leave(ControlServer::ConnectionId connection, const Json& params,
                    const ControlServer::Reply& reply) {
  const auto id = params.at("container").get<std::string>();
  const auto found = members_.find(id);
  if (found == members_.end() || found->second.connection != connection)
    return reply(no_member(id));
  if (!found->second.exited)
    return reply(make_error(ErrorKind::kFailedPrecondition,
                            fmt::format("container `{}` is still running", id)));
  found->second.abandoned = true;
  found->second.left = reply;
  remove(id);
}

void Members::ask_agent(ControlServer::ConnectionId connection, const Json& params,
                        const ControlServer::Reply& reply) {
  const auto id = params.at("container").get<std::string>();
  const auto method = params.at("method").get<std::string>();
  const auto found = members_.find(id);
  if (found == members_.end() || found->second.connection != connection)
    return reply(no_member(id));
  const Json& asked = params.at("params");
  const bool known = std::any_of(std::begin(kMethods), std::end(kMethods),
                                 [&](const char* name) { return method == name; });
  if (!known || asked.value("container", std::string()) != id)
    return reply(invalid_argument(fmt::format("`{}` is not for a member to ask", method)));
  if (method == "create") found->second.in_guest = true;
  sandbox_.agent()->request(method, asked, params.at("timeout").get<int64_t>(), reply);
}

bool Members::handle_exit(const protocol::ExitEvent& event) {
  const auto found = members_.find(event.container_id);
  if (found == members_.end()) return false;
  const bool init = event.process_id.empty();
  if (init) found->second.exited = true;
  if (!found->second.abandoned) {
    server_.send_event(found->second.connection, {"exit", protocol::to_json(event)});
  } else if (init) {
    remove(event.container_id);
  }
  return true;
}

bool Members::handle_oom(const protocol::OomEvent& event) {
  const auto found = members_.find(event.container_id);
  if (found == members_.end()) return false;
  server_.send_event(found->second.connection, {"oom", protocol::to_json(event)});
  return true;
}

bool Members::handle_notify(const protocol::NotifyEvent& event) {
  const auto found = members_.find(event.container_id);
  if (found == members_.end()) return false;
  server_.send_event(found->second.connection, {"notify", protocol::to_json(event)});
  return true;
}

void Members::connection_closed(ControlServer::ConnectionId connection) {
  for (auto& [id, member] : members_) {
    if (member.connection != connection || member.abandoned) continue;
    member.abandoned = true;
    if (!member.in_guest) return release_drives(std::string(id));
    if (member.exited) return remove(std::string(id));
    const protocol::SignalRequest kill{id, "", SIGKILL, true};
    // A refusal: its creation has failed, or it ends at this moment.
    sandbox_.agent()->request("signal", protocol::to_json(kill), kRemoveTimeoutMs,
                              [this, alive = alive_, name = id](const Result<Json>& done) {
                                if (*alive && !done) remove(name);
                              });
    return;
  }
}

void Members::remove(const std::string& id) {
  const protocol::ContainerRequest request{id};
  sandbox_.agent()->request("delete", protocol::to_json(request), kRemoveTimeoutMs,
                            [this, alive = alive_, id](const Result<Json>& done) {
                              if (!*alive) return;
                              if (!done && done.error().kind != ErrorKind::kNotFound)
                                log_warning("remove container {} from the guest: {}, ignoring", id,
                                            done.error().message);
                              release_drives(id);
                            });
}

void Members::release_drives(const std::string& id) {
  const auto found = members_.find(id);
  if (found == members_.end()) return;
  if (found->second.drives.empty()) return forget(id);
  const std::string drive = std::move(found->second.drives.back());
  found->second.drives.pop_back();
  const protocol::ReleaseRequest request{drive};
  sandbox_.agent()->request("release", protocol::to_json(request), kRemoveTimeoutMs,
                            [this, alive = alive_, id, drive](const Result<Json>& done) {
                              if (!*alive) return;
                              // Not found: the container's creation had not come that far.
                              if (!done && done.error().kind != ErrorKind::kNotFound)
                                log_warning("release drive {}: {}, ignoring", drive,
                                            done.error().message);
                              sandbox_.detach_drive(drive);
                              release_drives(id);
                            });
}

void Members::forget(const std::string& id) {
  const auto found = members_.find(id);
  if (found == members_.end()) return;
  for (const std::string& entry : found->second.entries) {
    if (auto removed = sandbox_.remove_share(entry); !removed)
      log_warning("{}, ignoring", removed.error().message);
  }
  const std::function<void()> next = std::move(found->second.next);
  const ControlServer::Reply left = std::move(found->second.left);
  members_.erase(found);
  if (left) left(Json::object());
  if (next) next();
}

}  // namespace kiln::runtime
