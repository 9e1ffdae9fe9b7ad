// SPDX-License-Identifier: Apache-2.0
// A process's standard streams: the host's descriptors on one side, the guest's streams on the
// other.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/protocol/messages.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/relay.h"
#include "base/unique_fd.h"
#include "runtime/passed_fds.h"
#include "runtime/stream_dialer.h"

namespace kiln::runtime {

// Which of the descriptors 0, 1, 2 are worth a stream: open, and not /dev/null.
protocol::StdioRequest stdio_in_use();
// Replaces 0, 1, 2 by /dev/null and returns what they were; call stdio_in_use() before.
Result<std::array<UniqueFd, 3>> take_stdio();

// Used by the event loop's thread.
class ProcessIo {
 public:
  struct Options {
    std::string vsock_path;
    std::string container_id;
    std::string process_id;  // empty: init
    int64_t dial_timeout_ms = 0;
    std::vector<PassedStream> passed = {};
  };
  using Callback = std::function<void(Result<void>)>;

  ProcessIo(EventLoop& loop, Options options) : loop_(loop), options_(std::move(options)) {}
  ~ProcessIo();
  ProcessIo(const ProcessIo&) = delete;
  ProcessIo& operator=(const ProcessIo&) = delete;

  // Dials the streams and starts to relay; `callback` once all are open, or one has failed.
  void open_pipes(const protocol::StdioRequest& wanted, std::array<UniqueFd, 3> fds,
                  Callback callback);
  // `input` and `output` may be two descriptors of one terminal.
  void open_terminal(UniqueFd input, UniqueFd output, Callback callback);

  // The process sees the end of its standard input, after what is there at this moment.
  void close_stdin();

  // While the guest cannot take connections they wait in the queues of passed listeners.
  void hold_listeners(bool held);

  // Calls back when what the guest had written has reached the host. `linger_ms` > 0: also when
  // nothing has moved for so long although a stream is open, because somebody else holds it.
  void drain(int64_t linger_ms, std::function<void()> callback);

 private:
  struct Stream {
    std::string name;
    UniqueFd input;   // read here, sent to the guest
    UniqueFd output;  // written with what the guest sends
    bool passed = false;
  };
  void dial(std::vector<Stream> streams, Callback callback);
  void add_passed();
  Result<void> listen();
  void opened(size_t index, Result<UniqueFd> socket);
  void all_open(Result<void> outcome);
  Result<void> relay(Stream& stream, UniqueFd socket);
  void check_drained();
  void linger();
  bool outputs_done() const;
  uint64_t bytes_out() const;
  bool blocked() const;

  EventLoop& loop_;
  Options options_;
  std::vector<Stream> streams_;
  std::vector<std::unique_ptr<StreamDialer>> dialers_;
  std::vector<std::unique_ptr<Relay>> inputs_;
  Relay* stdin_ = nullptr;  // of inputs_
  bool stdin_closed_ = false;
  std::vector<std::unique_ptr<Relay>> outputs_;
  // Of passed descriptors: a peer that does not read holds no container's end up.
  std::vector<std::unique_ptr<Relay>> passed_outputs_;
  std::vector<std::unique_ptr<PassedListener>> listeners_;
  size_t to_open_ = 0;
  Callback opened_;
  std::function<void()> drained_;
  int64_t linger_ms_ = 0;
  uint64_t bytes_seen_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::runtime
