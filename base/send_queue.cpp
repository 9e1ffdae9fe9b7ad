// SPDX-License-Identifier: Apache-2.0
#include "base/send_queue.h"

#include <sys/socket.h>

#include <cerrno>

namespace kiln {

void SendQueue::flush(int socket) {
  while (sent_ < bytes_.size()) {
    const ssize_t sent =
        send(socket, bytes_.data() + sent_, bytes_.size() - sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) break;
    if (sent < 0) {
      sent_ = bytes_.size();
      break;
    }
    sent_ += static_cast<size_t>(sent);
  }
  if (sent_ == bytes_.size()) {
    bytes_ = std::string();  // with its memory
    sent_ = 0;
  } else if (sent_ > bytes_.size() / 2) {
    bytes_.erase(0, sent_);
    sent_ = 0;
  }
}

}  // namespace kiln
