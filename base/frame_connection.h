// SPDX-License-Identifier: Apache-2.0
// Messages (4-byte little-endian length + payload) over a stream socket, inside an event loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/send_queue.h"
#include "base/unique_fd.h"

namespace kiln {

// Never blocks. Callbacks may destroy the connection. The peer is not trusted: a frame longer than
// `max_frame_bytes` closes the connection with an error.
class FrameConnection {
 public:
  using FrameCallback = std::function<void(std::string payload)>;
  // Called once; the connection is dead afterwards. kUnavailable: closed between two messages.
  using ClosedCallback = std::function<void(Error reason)>;

  static Result<std::unique_ptr<FrameConnection>> create(EventLoop& loop, UniqueFd socket,
                                                         size_t max_frame_bytes,
                                                         FrameCallback on_frame,
                                                         ClosedCallback on_closed);
  ~FrameConnection();
  FrameConnection(const FrameConnection&) = delete;
  FrameConnection& operator=(const FrameConnection&) = delete;

  // Keeps descriptors that come with a frame, for take_fds(); without it they are closed unseen. A
  // peer that sends more than kMaxWaitingFds of them that nobody takes is cut off.
  void accept_fds() { accepts_fds_ = true; }
  // In a frame's callback: those that came with it, if the peer waits for an answer before it sends
  // the next; the kernel says only that they came no later.
  std::vector<UniqueFd> take_fds() { return std::exchange(fds_, {}); }
  static constexpr size_t kMaxWaitingFds = 16;

  // Queues what the socket does not take at once, and reads no more while much is queued: a peer
  // that asks without listening to the answers stalls itself alone. A failure arrives through
  // on_closed.
  void send(std::string_view payload);
  bool sent_everything() const { return outgoing_.empty(); }
  // No more will be sent: the peer reads the end once it has read what is queued. Call it when
  // sent_everything().
  void end_sending();

  static constexpr size_t kMaxQueuedBytes = 4U << 20;

 private:
  FrameConnection(EventLoop& loop, UniqueFd socket, size_t max_frame_bytes, FrameCallback on_frame,
                  ClosedCallback on_closed);
  void handle(uint32_t events);
  void read_some();
  void flush();
  void take_frames();
  void close(Error reason);

  EventLoop& loop_;
  UniqueFd socket_;
  size_t max_frame_bytes_;
  std::shared_ptr<const FrameCallback> on_frame_;  // kept alive while it runs
  ClosedCallback on_closed_;
  std::string incoming_;
  bool accepts_fds_ = false;
  std::vector<UniqueFd> fds_;
  SendQueue outgoing_;
  // False once destroyed: callbacks look at it before they touch the object again.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln
