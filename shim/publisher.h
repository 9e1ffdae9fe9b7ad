// SPDX-License-Identifier: Apache-2.0
// What happens to tasks, told to containerd (containerd.services.events.ttrpc.v1.Events).
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "events.pb.h"
#include "shim/ttrpc/client.h"

namespace kiln::shim {

// Events arrive in the order in which they were published. While containerd is away they wait, as
// many as kMaxWaiting of them: a new containerd asks for states, but its clients hear of ends by
// events alone. Used by the event loop's thread.
class Publisher {
 public:
  static constexpr size_t kMaxWaiting = 2048;

  // `address`: a socket's path, with or without unix://; empty: nobody is told.
  Publisher(EventLoop& loop, std::string address, std::string namespace_name);
  ~Publisher();
  Publisher(const Publisher&) = delete;
  Publisher& operator=(const Publisher&) = delete;

  // `topic`: /tasks/exit; `type`: TaskExit.
  template <typename Message>
  void publish(const char* topic, const char* type, const Message& message) {
    enqueue(topic, type, message.SerializeAsString());
  }

  // Calls back when nothing waits, or after `timeout_ms`.
  void drain(int64_t timeout_ms, std::function<void()> callback);

 private:
  void enqueue(const char* topic, const char* type, std::string event);
  void send_next();
  void connect();
  void sent(const Result<std::string>& answer);
  void try_again();
  void check_drained();

  EventLoop& loop_;
  std::string path_;
  std::string namespace_;
  std::unique_ptr<ttrpc::Client> client_;
  std::deque<std::string> waiting_;  // ForwardRequests; the first is under way while sending_
  bool sending_ = false;
  EventLoop::TimerId retry_timer_ = 0;
  EventLoop::TimerId drain_timer_ = 0;
  std::function<void()> drained_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

api::Timestamp now();

}  // namespace kiln::shim
