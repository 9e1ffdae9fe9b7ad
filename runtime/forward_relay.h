// SPDX-License-Identifier: Apache-2.0
// The host's end of sockets that the host serves and a container connects to.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/acceptor.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/socket_bridge.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

// Carries connections of the guest (agent/protocol/messages.h, Forwards) to sockets of the host.
// Owned by a container's monitor, used by its only thread. Everything in the guest may dial it: it
// gets nowhere without a token, and what it can use up is bounded.
class ForwardRelay {
 public:
  struct Target {
    std::string path;  // for messages
    UniqueFd file;     // O_PATH, of the socket
  };

  static constexpr size_t kMaxConnections = 128;  // to each target
  static constexpr size_t kMaxNameless = 64;      // that have not said their token yet

  // On the first port of the VM's that is free.
  static Result<std::unique_ptr<ForwardRelay>> listen(EventLoop& loop,
                                                      const std::string& vsock_path,
                                                      std::vector<Target> targets);
  ~ForwardRelay();
  ForwardRelay(const ForwardRelay&) = delete;
  ForwardRelay& operator=(const ForwardRelay&) = delete;

  uint32_t port() const { return port_; }
  const std::string& token(size_t target) const { return tokens_.at(target); }

  size_t connections() const { return bridges_.size() + nameless_.size(); }
  // Whether everything that the guest has sent is where it was to go, and it sends no more.
  bool guest_has_ended() const;
  uint64_t bytes_copied() const;

 private:
  struct Nameless {
    UniqueFd guest;
    std::string said;
    EventLoop::TimerId timer = 0;
  };
  struct Bridge {
    size_t target = 0;
    std::unique_ptr<SocketBridge> bridge;
  };

  ForwardRelay(EventLoop& loop, std::vector<Target> targets);
  Result<UniqueFd> bind(const std::string& vsock_path);
  void take(UniqueFd guest);
  void read_token(uint64_t id);
  Result<void> connect(uint64_t id, UniqueFd guest, const std::string& token);
  UniqueFd release(uint64_t id);
  void complain(const Error& error);

  EventLoop& loop_;
  std::vector<Target> targets_;
  std::vector<std::string> tokens_;  // of each
  std::string path_;
  uint32_t port_ = 0;
  std::unique_ptr<Acceptor> acceptor_;
  std::map<uint64_t, Nameless> nameless_;  // the oldest first
  std::map<uint64_t, Bridge> bridges_;
  uint64_t next_id_ = 1;
  RateLimit complaints_{5};
};

}  // namespace kiln::runtime
