// SPDX-License-Identifier: Apache-2.0
#include "runtime/descriptor_room.h"

#include <sys/resource.h>

#include <algorithm>

namespace kiln::runtime {
namespace {

// A connection is two sockets, each in two descriptors; one that is being made has fewer.
constexpr rlim_t kFdsPerConnection = 4;
constexpr rlim_t kOtherFds = 1024;

}  // namespace

void make_room_for_connections(size_t count) {
  rlimit limit{};
  const rlim_t wanted = kOtherFds + count * kFdsPerConnection;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  static_cast<void>(setrlimit(RLIMIT_NOFILE, &limit));
}

}  // namespace kiln::runtime
