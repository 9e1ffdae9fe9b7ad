// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>

#include "base/error.h"
#include "base/unique_fd.h"

namespace kiln::agent {

// Our ends of one stream, non-blocking. With a terminal both are its master.
struct StreamEnds {
  UniqueFd to_process;
  UniqueFd from_process;
  bool duplex = false;  // one socket in two descriptors, whose directions end one by one
};

// Of a connection.
inline Result<StreamEnds> ends_of_socket(Result<UniqueFd> socket) {
  UniqueFd one = TRY(std::move(socket));
  UniqueFd other(fcntl(one.get(), F_DUPFD_CLOEXEC, 3));
  if (!other) return sys_error("duplicate a connection");
  return StreamEnds{std::move(one), std::move(other), true};
}

}  // namespace kiln::agent
