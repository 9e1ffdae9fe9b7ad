// SPDX-License-Identifier: Apache-2.0
// A pod's localhost, for those who are in the pod's network namespace on the host.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "runtime/network/localhost_taker.h"
#include "runtime/passed_fds.h"

namespace kiln::runtime {

// Engines forward a pod's port by dialling its localhost in the pod's network namespace, where
// nobody but the guest could answer: each connection becomes a stream to the same port there
// (agent/protocol/messages.h, port:N). Owned by the pod's monitor, used by its only thread. When it
// goes, so do the connections.
class PodPorts {
 public:
  // In the thread's network namespace, which must be the pod's. `vsock_path`: the machine's.
  static Result<std::unique_ptr<PodPorts>> open(EventLoop& loop, const std::string& vsock_path,
                                                const std::string& pod_id);

  // While the machine stands, whoever connects waits in the listener's queue.
  void hold(bool held);

 private:
  explicit PodPorts(LocalhostTaker taker) : taker_(std::move(taker)) {}

  LocalhostTaker taker_;
  std::vector<std::unique_ptr<PassedListener>> listeners_;
};

}  // namespace kiln::runtime
