// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"

namespace kiln {

// Work that other threads hand to an event loop's thread. Made and destroyed on that thread, while
// nobody posts any more; what was posted and did not run yet is dropped.
class TaskQueue {
 public:
  using Task = std::function<void()>;

  static Result<std::unique_ptr<TaskQueue>> create(EventLoop& loop);
  ~TaskQueue();
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;

  // From any thread; tasks run in the order in which they were posted.
  void post(Task task);
  // From any thread but the loop's: returns when `task` has run. Not while the loop does not run.
  void call(const Task& task);

 private:
  explicit TaskQueue(EventLoop& loop) : loop_(loop) {}
  void run();

  EventLoop& loop_;
  UniqueFd wakeup_;
  std::mutex mutex_;
  std::vector<Task> tasks_;
};

}  // namespace kiln
