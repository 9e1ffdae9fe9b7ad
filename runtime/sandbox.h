// SPDX-License-Identifier: Apache-2.0
// A virtual machine with its file-system server and its guest agent.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "runtime/pausing_agent.h"
#include "runtime/sandbox_link.h"
#include "runtime/shared_entries.h"
#include "vmm/api/fs_server.h"
#include "vmm/api/vm.h"

namespace kiln::runtime {

// Its processes die with the monitor's thread. It is lost when the machine, the file-system server
// or the agent has ended without being asked to.
class Sandbox : public SandboxLink {
 public:
  using Callbacks = SandboxCallbacks;

  // Starts the file-system server. `vsock_path`: in an existing, empty directory.
  static Result<std::unique_ptr<Sandbox>> create(EventLoop& loop, const std::string& vmm_binary,
                                                 std::string vsock_path, int log_fd,
                                                 Callbacks callbacks);
  ~Sandbox() override;
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;

  Result<std::string> add_share(const Share& share) override;
  // Of one user; the entry goes with the last.
  Result<void> remove_share(const std::string& entry);
  // Starts the machine, which then boots; on_ready follows. `spare_drives`: of its spare slots.
  Result<void> boot(vmm::VmConfig config, unsigned spare_drives);
  // While it runs, into its spare slots (the kvm backend), each kind into as many as are its.
  // kResourceExhausted: none is left.
  Result<void> attach_network(const vmm::NetworkInterfaceConfig& interface);
  void detach_network(const std::string& id);
  Result<void> attach_drive(const vmm::DriveConfig& drive);
  void detach_drive(const std::string& id);
  Agent* agent() override { return pausing_.get(); }
  const std::string& vsock_path() const override { return vsock_path_; }
  std::vector<ProcessId> processes() const override;
  void stop() override;  // at once
  std::string console_tail() const override;

  static constexpr const char* kShareTag = "kiln";

 private:
  Sandbox(EventLoop& loop, std::string vsock_path, Callbacks callbacks)
      : loop_(loop), vsock_path_(std::move(vsock_path)), callbacks_(std::move(callbacks)) {}
  void accept_agent();
  Result<void> set_paused(bool paused);
  void detach(const std::string& id);
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
  SharedEntries entries_;  // of it
  std::unique_ptr<vmm::Vm> vm_;
  unsigned free_interfaces_ = 0;  // slots
  unsigned free_drives_ = 0;
  UniqueFd listener_;
  std::unique_ptr<AgentClient> agent_;
  std::unique_ptr<PausingAgent> pausing_;  // the way to it
  bool watching_fs_ = false;
  bool watching_vm_ = false;
  bool stopped_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kiln::runtime
