// SPDX-License-Identifier: Apache-2.0
// For tests: a back-end as it is in life, beside the machine: our server, a device and an event
// loop on a thread of their own.
#pragma once

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cstdlib>
#include <functional>
#include <future>
#include <thread>

#include "base/unix_socket.h"
#include "vmm/vhost_user/server.h"

namespace kiln::vmm {

class BackendThread {
 public:
  // `make_device` runs on the thread, with its loop; the device lives as long as the thread.
  explicit BackendThread(std::function<std::unique_ptr<VirtioDevice>(EventLoop&)> make_device) {
    auto pair = socket_pair(SOCK_STREAM);
    if (!pair) abort();
    front_ = std::move(pair->first);
    thread_ = std::thread([this, make_device = std::move(make_device),
                           back = std::make_shared<UniqueFd>(std::move(pair->second))] {
      auto loop = EventLoop::create();
      if (!loop) abort();
      const auto device = make_device(**loop);
      auto server =
          VhostUserServer::create(**loop, std::move(*back), *device, [](const Result<void>&) {});
      if (!server) abort();
      if (!(*loop)->add_fd(tasks_.get(), EPOLLIN, [&](uint32_t) {
            eventfd_t count = 0;
            eventfd_read(tasks_.get(), &count);
            if (task_) {
              task_(*device);
              done_.set_value();
            } else {
              (*loop)->stop();
            }
          }))
        abort();
      static_cast<void>((*loop)->run());
    });
  }
  ~BackendThread() { stop(); }

  // The front-end's end of the connection.
  UniqueFd take_socket() { return std::move(front_); }
  // Runs on the back-end's thread, between its events.
  void run(const std::function<void(VirtioDevice&)>& task) {
    task_ = task;
    done_ = {};
    eventfd_write(tasks_.get(), 1);
    done_.get_future().wait();
  }
  // The back-end dies: its connection closes.
  void stop() {
    if (!thread_.joinable()) return;
    task_ = nullptr;
    eventfd_write(tasks_.get(), 1);
    thread_.join();
  }

 private:
  UniqueFd front_;
  UniqueFd tasks_{eventfd(0, EFD_CLOEXEC)};
  std::function<void(VirtioDevice&)> task_;
  std::promise<void> done_;
  std::thread thread_;
};

}  // namespace kiln::vmm
