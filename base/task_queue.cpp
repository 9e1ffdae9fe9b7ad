// SPDX-License-Identifier: Apache-2.0
#include "base/task_queue.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <condition_variable>
#include <utility>

#include "base/file.h"

namespace kiln {

Result<std::unique_ptr<TaskQueue>> TaskQueue::create(EventLoop& loop) {
  std::unique_ptr<TaskQueue> queue(new TaskQueue(loop));
  queue->wakeup_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!queue->wakeup_) return sys_error("create an eventfd");
  // Edge-triggered: every write is an edge, so that nobody has to read the counter back.
  TRY(loop.add_fd(queue->wakeup_.get(), EPOLLIN | EPOLLET,
                  [raw = queue.get()](uint32_t) { raw->run(); }));
  return queue;
}

TaskQueue::~TaskQueue() { loop_.remove_fd(wakeup_.get()); }

void TaskQueue::post(Task task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  const uint64_t one = 1;
  // A full counter already is a signal.
  static_cast<void>(retry_eintr([&] { return write(wakeup_.get(), &one, sizeof one); }));
}

void TaskQueue::call(const Task& task) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  post([&] {
    task();
    const std::lock_guard lock(mutex);
    done = true;
    changed.notify_one();
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return done; });
}

void TaskQueue::run() {
  std::vector<Task> now;
  {
    const std::lock_guard lock(mutex_);
    now = std::exchange(tasks_, {});
  }
  for (const Task& task : now) task();
}

}  // namespace kiln
