// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "agent/core/stream_ends.h"
#include "agent/protocol/messages.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// Our ends of what a process has in the place of descriptors that the host's caller passed
// (LISTEN_FDS, --preserve-fds). All are sockets, also those that stand for a pipe: Linux holds a
// pipe's lock while a process splices between it and a socket that has nothing or takes nothing,
// and a read of ours, non-blocking or not, would wait for that lock.
class PassedFds {
 public:
  // `theirs` receives the process's ends, as ProcessFds::passed wants them.
  static Result<PassedFds> create(const std::vector<protocol::Passed>& wanted,
                                  std::vector<UniqueFd>& theirs);

  // A listener gives a new connection to itself each time, everything else its end once.
  Result<StreamEnds> take(size_t index);
  bool all_taken() const;

 private:
  struct End {
    protocol::Passed kind = protocol::Passed::kSocket;
    UniqueFd fd;
    std::string address;  // of a listener: an abstract name of the agent's network namespace
  };
  std::vector<End> ends_;
};

}  // namespace kiln::agent
