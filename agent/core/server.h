// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/core/container_entry.h"
#include "agent/core/forward_socket.h"
#include "agent/core/guest.h"
#include "agent/core/guest_container.h"
#include "agent/core/localhost_dials.h"
#include "agent/core/notify_socket.h"
#include "agent/core/reaper.h"
#include "agent/core/resolver.h"
#include "agent/core/stream_server.h"
#include "agent/protocol/messages.h"
#include "base/event_loop.h"
#include "base/frame_connection.h"

namespace kiln::agent {

// The agent once it is connected: answers the host's requests and tells it what happens. The end of
// the control connection is the end of the guest. Used by the event loop's thread.
class Server {
 public:
  struct Options {
    UniqueFd control;
    std::unique_ptr<StreamListener> streams;
    ContainerFactory factory;
    PodFactory pod_factory;
    Guest* guest = nullptr;              // outlives the server
    std::string run_directory = "/run";  // for sockets that containers see
  };

  // Says hello. Takes over SIGCHLD of the loop's thread.
  static Result<std::unique_ptr<Server>> create(EventLoop& loop, Options options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

 private:
  // nullopt: answered later.
  using Answer = Result<std::optional<Json>>;
  struct Method {
    const char* name;
    Answer (Server::*run)(uint64_t id, const Json& params);
  };
  static const Method kMethods[];

  Server(EventLoop& loop, Options options);
  void handle_frame(const std::string& payload);
  Answer dispatch(const protocol::Request& request);
  void reply(uint64_t id, Result<Json> result);
  void tell(const char* event, Json params);
  void control_closed(const Error& reason);

  Answer sandbox(uint64_t id, const Json& params);
  Answer clock(uint64_t id, const Json& params);
  Answer settle(uint64_t id, const Json& params);
  Answer network(uint64_t id, const Json& params);
  Answer pod(uint64_t id, const Json& params);
  Answer create_container(uint64_t id, const Json& params);
  Result<void> prepare_devices(const protocol::CreateRequest& request, oci::Spec& spec);
  Result<void> find_shared(const protocol::CreateRequest& request, ContainerSetup& setup);
  bool is_pod(const std::string& id) const { return pod_ != nullptr && id == pod_id_; }
  Result<std::shared_ptr<NotifySocket>> notify_socket(const protocol::CreateRequest& request,
                                                      ContainerSetup& setup);
  Result<std::vector<std::unique_ptr<ForwardSocket>>> forward_sockets(
      const protocol::CreateRequest& request, ContainerSetup& setup);
  Result<BlockSource> block_source(const protocol::Drive& drive);
  Answer start(uint64_t id, const Json& params);
  Answer delete_container(uint64_t id, const Json& params);
  Answer pause(uint64_t id, const Json& params);
  Answer resume(uint64_t id, const Json& params);
  Answer processes(uint64_t id, const Json& params);
  Answer exec(uint64_t id, const Json& params);
  Answer signal(uint64_t id, const Json& params);
  Answer resize(uint64_t id, const Json& params);
  Answer update(uint64_t id, const Json& params);
  Answer refresh(uint64_t id, const Json& params);
  Answer release(uint64_t id, const Json& params);
  Answer stats(uint64_t id, const Json& params);
  Answer resolver(uint64_t id, const Json& params);
  Answer shutdown(uint64_t id, const Json& params);

  Result<ContainerEntry*> find(const std::string& container_id);
  Result<ContainerEntry*> find_in(const Json& params);
  void open_stream(const protocol::StreamHeader& header, const StreamServer::Opened& opened);
  ContainerEntry::Context entry_context();
  bool settled() const;
  void answer_settled();
  void continue_shutdown();
  void finish_shutdown();
  void power_off();

  EventLoop& loop_;
  ContainerFactory factory_;
  PodFactory pod_factory_;
  Guest& guest_;
  std::string run_directory_;
  Reaper reaper_;
  std::unique_ptr<FrameConnection> control_;
  std::unique_ptr<StreamServer> streams_;
  std::unique_ptr<Resolver> resolver_;
  std::map<std::string, std::unique_ptr<ContainerEntry>> containers_;
  std::string pod_id_;
  std::unique_ptr<GuestPod> pod_;     // if the sandbox is a pod's
  LocalhostDials localhost_dials_;    // of the pod
  std::vector<uint64_t> settle_ids_;  // requests that wait
  bool adopted_ = false;              // has its identity
  std::optional<uint64_t> shutdown_id_;
  bool shutdown_done_ = false;
  EventLoop::TimerId shutdown_timer_ = 0;
  bool powered_off_ = false;
};

}  // namespace kiln::agent
