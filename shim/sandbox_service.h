// SPDX-License-Identifier: Apache-2.0
// containerd.runtime.sandbox.v1.Sandbox: a pod's machine as an object of its own, for a containerd
// whose runtime has `sandboxer = "shim"`. Others make it as a task, out of a pause container.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shim/calls.h"
#include "shim/task.h"
#include "shim/ttrpc/server.h"

namespace kiln::shim {

// At most one sandbox: a shim is a pod's. Used by the event loop's thread.
class SandboxService {
 public:
  // `on_shutdown`: containerd has no more use for us.
  SandboxService(ShimContext& context, std::function<void()> on_shutdown)
      : context_(context), on_shutdown_(std::move(on_shutdown)) {}

  std::vector<ttrpc::Server::Method> methods();
  bool empty() const { return sandbox_ == nullptr; }

 private:
  using Incoming = ttrpc::Server::Incoming;
  using Reply = ttrpc::Server::Reply;
  static const Call<SandboxService> kCalls[];

  void create(const Incoming& incoming, const Reply& reply);
  void start(const Incoming& incoming, const Reply& reply);
  void platform(const Incoming& incoming, const Reply& reply);
  void stop(const Incoming& incoming, const Reply& reply);
  void wait(const Incoming& incoming, const Reply& reply);
  void status(const Incoming& incoming, const Reply& reply);
  void ping(const Incoming& incoming, const Reply& reply);
  void shutdown(const Incoming& incoming, const Reply& reply);
  void metrics(const Incoming& incoming, const Reply& reply);

  bool is_ours(const std::string& id, const Reply& reply) const;
  void end_by_force(int64_t after_ms);
  Json verbose_info() const;

  ShimContext& context_;
  std::function<void()> on_shutdown_;
  std::shared_ptr<Task> sandbox_;
  api::Timestamp created_at_;
};

}  // namespace kiln::shim
