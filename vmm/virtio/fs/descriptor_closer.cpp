// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/fs/descriptor_closer.h"

#include <system_error>
#include <utility>

namespace kiln::vmm {

DescriptorCloser::~DescriptorCloser() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void DescriptorCloser::close(UniqueFd fd) {
  if (!fd || !start()) return;  // closed here
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= kMaxWaiting) return;
    waiting_.push_back(std::move(fd));
  }
  changed_.notify_one();
}

// False where there can be no thread.
bool DescriptorCloser::start() {
  if (thread_.joinable()) return true;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error&) {
    return false;
  }
  return true;
}

void DescriptorCloser::run() {
  std::vector<UniqueFd> mine;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    mine.swap(waiting_);
    lock.unlock();
    mine.clear();
    lock.lock();
  }
}

}  // namespace kiln::vmm
