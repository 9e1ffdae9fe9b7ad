// SPDX-License-Identifier: Apache-2.0
// containerd.services.streaming.v1.Streaming: standard streams over the shim's own socket, in the
// place of fifos (`…?streaming_id=…`, containerd's io_type = "streaming").
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "shim/stdio.h"
#include "shim/ttrpc/server.h"

namespace kiln::shim {

// A stream and the process's pipe find each other by an id, in whatever order they come. A stream
// that breaks, because containerd has gone, leaves the pipe alone: the process waits for the next
// one. Both sides store no more than a window. Used by the event loop's thread.
class Streaming {
 public:
  explicit Streaming(EventLoop& loop) : loop_(loop) {}
  ~Streaming();
  Streaming(const Streaming&) = delete;
  Streaming& operator=(const Streaming&) = delete;

  ttrpc::Server::Method method();

  // Makes the pipes of those of `paths` that are streams.
  Result<void> prepare(StdioPaths& paths);
  // Of a process that has been deleted.
  void forget(const StdioPaths& paths);

  // The id of such a URI; empty: it is none.
  static std::string stream_id(const std::string& uri);

 private:
  struct Endpoint {
    bool input = false;  // of the process
    UniqueFd pipe;       // our end
    std::shared_ptr<ttrpc::Stream> stream;
    int64_t window = 0;   // what may still be sent, or may still come
    std::string pending;  // of an input
    bool ending = false;  // no more will come, or the pipe has ended
    bool watched = false;
  };

  Result<UniqueFd> add(const std::string& id, bool input);
  void take(const std::shared_ptr<ttrpc::Stream>& stream);
  void identify(const std::shared_ptr<ttrpc::Stream>& stream, const std::string& data);
  void attach(const std::string& id, Endpoint& endpoint, std::shared_ptr<ttrpc::Stream> stream);
  void received(const std::string& id, const std::string& data);
  void stream_ended(const std::string& id, const ttrpc::Stream* stream);
  void pump(const std::string& id);
  void pump_output(const std::string& id, Endpoint& endpoint);
  void pump_input(const std::string& id, Endpoint& endpoint);
  void watch(const std::string& id, Endpoint& endpoint, bool wanted);
  void close_pipe(Endpoint& endpoint);
  void remove(const std::string& id);

  EventLoop& loop_;
  std::map<std::string, Endpoint> endpoints_;
  // Streams whose processes are still to come, the oldest first.
  std::deque<std::pair<std::string, std::shared_ptr<ttrpc::Stream>>> early_;
  // Streams that have not said their ids.
  std::map<const ttrpc::Stream*, std::shared_ptr<ttrpc::Stream>> nameless_;
};

}  // namespace kiln::shim
