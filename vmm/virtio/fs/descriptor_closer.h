// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/unique_fd.h"

namespace kiln::vmm {

// Closes descriptors on a thread of its own, in order. The last one of a file that has no name any
// more frees its blocks, which the file system takes its time for: nobody waits for that.
//
// The thread begins with the first descriptor and ends, everything closed, in the destructor.
class DescriptorCloser {
 public:
  // So many wait at most; further ones are closed by the caller.
  static constexpr size_t kMaxWaiting = 256;

  DescriptorCloser() = default;
  ~DescriptorCloser();
  DescriptorCloser(const DescriptorCloser&) = delete;
  DescriptorCloser& operator=(const DescriptorCloser&) = delete;

  void close(UniqueFd fd);

 private:
  bool start();
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<UniqueFd> waiting_;
  bool ending_ = false;
  std::thread thread_;  // the owner's
};

}  // namespace kiln::vmm
