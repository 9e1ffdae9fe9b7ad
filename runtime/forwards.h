// SPDX-License-Identifier: Apache-2.0
// The forwards of one container, on the host's side.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/protocol/messages.h"
#include "base/event_loop.h"
#include "runtime/forward_places.h"
#include "runtime/forward_relay.h"
#include "runtime/passed_fds.h"
#include "runtime/shared_socket.h"

namespace kiln::runtime {

// Owned by the container's monitor, used by its only thread. When it goes, so do the files that it
// has made.
class Forwards {
 public:
  // Makes the sockets. Nobody's connection is taken before serve(). `vsock_path`: the machine's.
  static Result<std::unique_ptr<Forwards>> open(EventLoop& loop, ForwardPlaces places,
                                                const std::string& vsock_path);
  ~Forwards();
  Forwards(const Forwards&) = delete;
  Forwards& operator=(const Forwards&) = delete;

  std::vector<SharedSocketRecord> records() const;
  // What the agent is to do; adds a mount to request.config for each socket that has none.
  void describe(protocol::CreateRequest& request) const;
  // From now on there is a container that can be connected to.
  Result<void> serve(const std::string& container_id);
  // The container has ended: calls back once what it has sent has reached the host's peers, or
  // nothing has moved for `idle_ms`.
  void drain(int64_t idle_ms, std::function<void()> done);

 private:
  struct Served {
    std::string path;
    SharedSocket socket;
    std::unique_ptr<PassedListener> listener;
  };

  Forwards(EventLoop& loop, std::string vsock_path)
      : loop_(loop), vsock_path_(std::move(vsock_path)) {}
  bool guest_has_ended() const;
  uint64_t bytes_copied() const;
  void look_again(int64_t idle_ms, int64_t left_ms, uint64_t seen, std::function<void()> done);

  EventLoop& loop_;
  std::string vsock_path_;
  std::vector<HostSocket> sockets_;
  std::unique_ptr<ForwardRelay> relay_;
  std::vector<Served> served_;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace kiln::runtime
