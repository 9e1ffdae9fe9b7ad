// SPDX-License-Identifier: Apache-2.0
// The monitor's first thread stands where the container is.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>

#include "base/error.h"

namespace kiln::runtime {

// /proc/PID/ns of a process shows its first thread's namespaces, and engines go in there by the
// container's pid: Docker's hooks for its network, podman cp for its files. So the first thread
// enters them and does nothing else, while everything of the monitor runs on a second thread,
// which stays on the host.
class MainThread {
 public:
  // On the first thread: runs `body` on a second one and its errands here; returns body's value.
  int run(const std::function<int()>& body);

  // From `body`: has the first thread do it, and waits for the outcome.
  Result<void> perform(const std::function<Result<void>()>& errand);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<Result<void>()>* errand_ = nullptr;
  Result<void> outcome_;
  bool over_ = false;
};

}  // namespace kiln::runtime
