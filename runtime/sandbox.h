// SPDX-License-Identifier: Apache-2.0
// A virtual machine with its file-system server and its guest agent.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "runtime/agent_client.h"
#include "runtime/container_dir.h"
#include "runtime/shares.h"
#include "vmm/api/fs_server.h"
#include "vmm/api/vm.h"

namespace kiln::runtime {

// Owned by the monitor, used by its only thread. Its processes die with that thread.
class Sandbox {
 public:
  struct Callbacks {
    std::function<void()> on_ready;  // the agent has said hello
    std::function<void(const protocol::ExitEvent&)> on_exit;
    std::function<void(const protocol::OomEvent&)> on_oom;
    std::function<void(const protocol::NotifyEvent&)> on_notify;
    // Once: the machine, the file-system server or the agent has ended without being asked to.
    std::function<void(Error)> on_lost;
  };

  // Starts the file-system server. `vsock_path`: in an existing, empty directory.
  static Result<std::unique_ptr<Sandbox>> create(EventLoop& loop, const std::string& vmm_binary,
                                                 std::string vsock_path, int log_fd,
                                                 Callbacks callbacks);
  ~Sandbox();
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;

  Result<void> add_share(const Share& share);
  // Starts the machine, which then boots; on_ready follows.
  Result<void> boot(vmm::VmConfig config);
  AgentClient* agent() { return agent_.get(); }  // null before on_ready
  const std::string& vsock_path() const { return vsock_path_; }
  std::vector<ProcessId> processes() const;
  // Ends everything at once. Idempotent; on_lost is not called any more.
  void stop();
  // The last lines of the guest's console, for an error message; empty if there are none.
  std::string console_tail() const;

  static constexpr const char* kShareTag = "kiln";

 private:
  Sandbox(EventLoop& loop, std::string vsock_path, Callbacks callbacks)
      : loop_(loop), vsock_path_(std::move(vsock_path)), callbacks_(std::move(callbacks)) {}
  void accept_agent();
  void fs_ended();
  void vm_ended();
  void agent_closed(const Error& error);
  void lose(Error reason);

  EventLoop& loop_;
  std::string vmm_binary_;
  std::string vsock_path_;
  int log_fd_ = -1;
  Callbacks callbacks_;
  std::unique_ptr<vmm::FsServer> fs_;
  std::unique_ptr<vmm::Vm> vm_;
  UniqueFd listener_;
  std::unique_ptr<AgentClient> agent_;
  bool watching_fs_ = false;
  bool watching_vm_ = false;
  bool stopped_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::runtime
