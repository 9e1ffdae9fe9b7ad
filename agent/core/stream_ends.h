// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/unique_fd.h"

namespace kiln::agent {

// Our ends of one stream, non-blocking. With a terminal both are its master.
struct StreamEnds {
  UniqueFd to_process;
  UniqueFd from_process;
  bool duplex = false;  // one socket in two descriptors, whose directions end one by one
};

}  // namespace kiln::agent
