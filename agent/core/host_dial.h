// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// A connection to the host that is being made. Destroying it gives up without calling back.
class HostDial {
 public:
  // Once; it may destroy the dial.
  using Callback = std::function<void(Result<UniqueFd> connection)>;

  // `connecting`: non-blocking; it is writable once it is connected. `first` is sent then: a few
  // bytes, for which a new connection has room.
  static Result<std::unique_ptr<HostDial>> start(EventLoop& loop, UniqueFd connecting,
                                                 std::string first, int64_t timeout_ms,
                                                 Callback callback);
  ~HostDial();
  HostDial(const HostDial&) = delete;
  HostDial& operator=(const HostDial&) = delete;

 private:
  HostDial(EventLoop& loop, UniqueFd connecting, std::string first, Callback callback)
      : loop_(loop),
        connecting_(std::move(connecting)),
        first_(std::move(first)),
        callback_(std::move(callback)) {}
  Result<void> begin();
  void finish(Result<void> outcome);

  EventLoop& loop_;
  UniqueFd connecting_;
  std::string first_;
  Callback callback_;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace kiln::agent
