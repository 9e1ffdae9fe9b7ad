// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/device_thread.h"

#include <pthread.h>

#include <system_error>

#include "base/log.h"

namespace kiln::vmm {

Result<std::unique_ptr<DeviceThread>> DeviceThread::start() {
  std::unique_ptr<DeviceThread> device_thread(new DeviceThread);
  device_thread->loop_ = TRY(EventLoop::create());
  device_thread->tasks_ = TRY(TaskQueue::create(*device_thread->loop_));
  try {
    device_thread->thread_ = std::thread([loop = device_thread->loop_.get()] {
      pthread_setname_np(pthread_self(), "device");
      if (const auto ran = loop->run(); !ran) log_error("devices: {}", ran.error().message);
    });
  } catch (const std::system_error& error) {
    return sys_error("start the device thread", error.code().value());
  }
  return device_thread;
}

DeviceThread::~DeviceThread() {
  if (!thread_.joinable()) return;
  tasks_->post([this] { loop_->stop(); });
  thread_.join();
}

}  // namespace kiln::vmm
