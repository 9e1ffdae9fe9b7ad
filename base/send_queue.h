// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace kiln {

// What is to go out on a stream socket: what the socket does not take at once waits here.
class SendQueue {
 public:
  // Does not send; the order is that of the calls.
  void append(std::string_view bytes) { bytes_ += bytes; }
  // Sends what the socket takes without waiting. When nobody can get it any more it is dropped: the
  // reading side reports the end, after what the peer may have said before it.
  void flush(int socket);
  size_t size() const { return bytes_.size() - sent_; }
  bool empty() const { return bytes_.empty(); }

 private:
  std::string bytes_;
  size_t sent_ = 0;  // of them, which are on their way
};

}  // namespace kiln
