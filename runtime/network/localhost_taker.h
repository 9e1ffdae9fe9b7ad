// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::runtime {

// Takes every TCP connection to 127.0.0.1 and to ::1 of a network namespace, whatever its port, and
// nothing else there: a BPF program of the type SK_LOOKUP (Linux 5.9) leads them to two listeners.
// Who listens at one of the two addresses himself is not reached any more. Everything is held by
// descriptors, so that nothing is left when the process dies.
class LocalhostTaker {
 public:
  // In the calling thread's namespace. Needs CAP_BPF and CAP_NET_ADMIN in the first user namespace.
  static Result<LocalhostTaker> start();

  // Non-blocking. What one of them accepts has the port that was dialled as its own.
  std::vector<UniqueFd> take_listeners() { return std::move(listeners_); }

 private:
  LocalhostTaker(UniqueFd link, std::vector<UniqueFd> listeners)
      : link_(std::move(link)), listeners_(std::move(listeners)) {}

  UniqueFd link_;  // holds the program, which holds the map
  std::vector<UniqueFd> listeners_;
};

}  // namespace kiln::runtime
