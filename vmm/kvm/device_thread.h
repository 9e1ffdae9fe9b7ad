// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <thread>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/task_queue.h"

namespace kiln::vmm {

// The thread that all devices of a machine live on.
class DeviceThread {
 public:
  static Result<std::unique_ptr<DeviceThread>> start();
  // Ends the thread. What was made on its loop must be gone by then.
  ~DeviceThread();
  DeviceThread(const DeviceThread&) = delete;
  DeviceThread& operator=(const DeviceThread&) = delete;

  // To be used on the thread itself: inside of a task.
  EventLoop& loop() { return *loop_; }
  TaskQueue& tasks() { return *tasks_; }

 private:
  DeviceThread() = default;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<TaskQueue> tasks_;
  std::thread thread_;
};

}  // namespace kiln::vmm
