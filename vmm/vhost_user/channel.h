// SPDX-License-Identifier: Apache-2.0
// The front-end's end of a vhost-user connection: messages, and the waiting for their answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "vmm/vhost_user/protocol.h"

namespace kiln::vmm {

// One thread's. The back-end is not trusted: an answer that was not asked for, of another size,
// with descriptors, late or missing fails the channel for good, since nobody knows then what the
// next bytes mean; every call returns that error from there on. That the back-end refuses a request
// is an error which the channel survives.
class VhostUserChannel {
 public:
  // `socket`: a connected stream socket; made non-blocking. `patience_ms`: how long the back-end
  // may take for what one call waits for.
  static Result<VhostUserChannel> create(UniqueFd socket, int64_t patience_ms);

  // The back-end acknowledges requests that have no answer of their own (REPLY_ACK).
  void expect_acknowledgements() { acknowledges_ = true; }

  // Sends without waiting; settle() follows.
  Result<void> send(vhost_user::Request request, std::span<const std::byte> payload = {},
                    std::span<const int> fds = {});
  template <typename T>
  Result<void> send_object(vhost_user::Request request, const T& value,
                           std::span<const int> fds = {}) {
    return send(request, std::as_bytes(std::span(&value, 1)), fds);
  }
  // Waits until the back-end has done all that was sent. The first refusal is the error.
  Result<void> settle();

  Result<uint64_t> ask_u64(vhost_user::Request request);
  Result<vhost_user::VringState> ask_vring_base(unsigned index);
  // The first `size` bytes of the device's configuration, at most kMaxConfigSize.
  Result<std::vector<std::byte>> ask_config(uint32_t size);

  // Between requests the back-end has nothing to say: fails the channel if it does, or has closed.
  Result<void> check_silence();
  // Why the channel can no longer be used.
  const std::optional<Error>& failure() const { return failure_; }
  int fd() const { return socket_.get(); }

 private:
  VhostUserChannel(UniqueFd socket, int64_t patience_ms)
      : socket_(std::move(socket)), patience_ms_(patience_ms) {}
  tl::unexpected<Error> fail(vhost_user::Request request, Error why);
  Result<void> write(vhost_user::Request request, uint32_t flags,
                     std::span<const std::byte> payload, std::span<const int> fds,
                     int64_t deadline_ms);
  // Of `payload_size` bytes; or of none where the protocol has that for "no".
  Result<std::string> read_answer(vhost_user::Request request, size_t payload_size,
                                  bool may_be_empty, int64_t deadline_ms);
  Result<std::string> read_bytes(size_t size, int64_t deadline_ms);
  Result<std::string> ask(vhost_user::Request request, std::span<const std::byte> payload,
                          size_t answer_size, bool may_be_empty);
  Result<void> settle_by(int64_t deadline_ms);
  Result<void> wait(short events, int64_t deadline_ms) const;

  UniqueFd socket_;
  int64_t patience_ms_;
  bool acknowledges_ = false;
  // Sent and not yet acknowledged, in order.
  std::vector<vhost_user::Request> outstanding_;
  std::optional<Error> refusal_;
  std::optional<Error> failure_;
};

}  // namespace kiln::vmm
