// SPDX-License-Identifier: Apache-2.0
// Work that blocks, off the event loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/task_queue.h"

namespace kiln::shim {

// Each job has a thread of its own, which ends with it: most of the time there is none. Used by the
// event loop's thread; destroyed only when none is running.
class Workers {
 public:
  static Result<std::unique_ptr<Workers>> create(EventLoop& loop);
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // `job` on a thread, then `done` with its value on the loop's. When no thread can be made, `done`
  // gets the error.
  template <typename T>
  void run(std::function<Result<T>()> job, std::function<void(Result<T>)> done) {
    const auto outcome = std::make_shared<std::optional<Result<T>>>();
    start([job = std::move(job), outcome] { *outcome = job(); },
          [done = std::move(done), outcome](Result<void> ran) {
            if (!ran) return done(tl::unexpected(std::move(ran.error())));
            done(std::move(**outcome));
          });
  }

  bool idle() const { return running_ == 0; }

 private:
  explicit Workers(std::unique_ptr<TaskQueue> queue) : queue_(std::move(queue)) {}
  void start(std::function<void()> job, std::function<void(Result<void>)> done);

  std::unique_ptr<TaskQueue> queue_;
  size_t running_ = 0;
};

}  // namespace kiln::shim
