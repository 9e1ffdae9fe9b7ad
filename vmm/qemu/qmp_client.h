// SPDX-License-Identifier: Apache-2.0
// QEMU's machine protocol (docs/interop/qmp-spec): one JSON object a line.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/json.h"
#include "base/unique_fd.h"

namespace kiln::vmm {

// QEMU is trusted no more than its guest: a line that is not QMP closes the connection.
class QmpClient {
 public:
  using Done = std::function<void(Result<Json>)>;
  struct Callbacks {
    std::function<void()> on_ready;  // QEMU's main loop runs and takes commands
    std::function<void(const std::string& name, const Json& data)> on_event;
    std::function<void()> on_closed;  // once; commands in flight have failed by then
  };

  static Result<std::unique_ptr<QmpClient>> create(EventLoop& loop, UniqueFd socket,
                                                   Callbacks callbacks);
  ~QmpClient();
  QmpClient(const QmpClient&) = delete;
  QmpClient& operator=(const QmpClient&) = delete;

  // Answers come in order. `done` is called exactly once.
  void execute(const std::string& command, Done done);

 private:
  QmpClient(EventLoop& loop, UniqueFd socket, Callbacks callbacks);
  void receive();
  void handle_line(const std::string& line);
  void close();

  EventLoop& loop_;
  UniqueFd socket_;
  Callbacks callbacks_;
  std::string incoming_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Done> waiting_;
};

}  // namespace kiln::vmm
