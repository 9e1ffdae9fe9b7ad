// SPDX-License-Identifier: Apache-2.0
// Descriptors that the caller passes to the container (LISTEN_FDS, --preserve-fds). None of them
// can enter the guest: the process gets one of the same kind there, and the bytes are carried.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/protocol/messages.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/relay.h"
#include "base/unique_fd.h"
#include "runtime/stream_dialer.h"

namespace kiln::runtime {

// How many descriptors from 3 on are a service manager's for this process: LISTEN_FDS, if
// LISTEN_PID names it (sd_listen_fds(3)).
Result<size_t> listen_fds();

// The kinds of `count` descriptors of this process from kFirstPassedFd on, of which the last
// `preserved` were asked for by --preserve-fds. An error names the first that cannot be carried.
Result<std::vector<protocol::Passed>> passed_kinds(size_t count, size_t preserved);

struct PassedStream {
  protocol::Passed kind = protocol::Passed::kSocket;
  UniqueFd fd;
};

// Carries each connection to a listening socket of the host to the process's listener. Used by the
// event loop's thread.
class PassedListener {
 public:
  struct Options {
    std::string vsock_path;
    protocol::StreamHeader header;
    int64_t dial_timeout_ms = 0;
    // The name of a connection's stream where not all have the header's.
    std::function<std::string(int connection)> stream_of = nullptr;
  };
  static Result<std::unique_ptr<PassedListener>> create(EventLoop& loop, UniqueFd listener,
                                                        Options options);
  ~PassedListener();
  PassedListener(const PassedListener&) = delete;
  PassedListener& operator=(const PassedListener&) = delete;

  // Whoever comes while it is held waits in the backlog.
  void hold(bool held);
  // What still comes is left to whoever else has the socket.
  void stop_accepting();
  // Whether everything that the guest has sent is where it was to go, and it sends no more.
  bool guest_has_ended() const;
  uint64_t bytes_copied() const;

  static constexpr size_t kMaxConnections = 128;  // at once; the others wait in the backlog

 private:
  struct Connection {
    UniqueFd peer;
    std::unique_ptr<StreamDialer> dialer;
    std::unique_ptr<Relay> inward;
    std::unique_ptr<Relay> outward;
  };

  PassedListener(EventLoop& loop, UniqueFd listener, Options options)
      : loop_(loop), listener_(std::move(listener)), options_(std::move(options)) {}
  Result<void> watch();
  void accept_some();
  void dial(UniqueFd peer);
  void dialed(uint64_t id, Result<UniqueFd> stream);
  Result<void> carry(uint64_t id, UniqueFd stream);
  // Not from within a callback of what it destroys.
  void drop_later(uint64_t id);

  EventLoop& loop_;
  UniqueFd listener_;
  Options options_;
  bool watching_ = false;
  bool held_ = false;
  std::map<uint64_t, Connection> connections_;
  uint64_t next_id_ = 1;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::runtime
