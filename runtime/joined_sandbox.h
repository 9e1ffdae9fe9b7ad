// SPDX-License-Identifier: Apache-2.0
// A container in the virtual machine of another one, whose monitor it asks for everything
// (members.h is the other end).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "runtime/disks.h"
#include "runtime/rpc_client.h"
#include "runtime/sandbox_link.h"

namespace kiln::runtime {

// The machine ends with the container that made it; then on_lost is called. When this object goes,
// the other monitor removes the container from the guest.
class JoinedSandbox : public SandboxLink {
 public:
  // `owner`: the directory of the container that made the machine.
  static Result<std::unique_ptr<JoinedSandbox>> join(EventLoop& loop, const std::string& owner,
                                                     const std::string& container_id,
                                                     SandboxCallbacks callbacks);

  // Before the name of every share entry of this container.
  const std::string& entry_prefix() const { return prefix_; }

  // Until the machine has these interfaces of its network namespace.
  Result<void> await_interfaces(const std::vector<std::string>& names);
  Result<std::string> add_share(const Share& share) override;
  // The disk becomes a drive of the machine, until the container is gone from it; the drive's id.
  // kResourceExhausted: the machine takes no further disk.
  Result<std::string> add_drive(const Disk& disk);
  bool has_drives() const { return has_drives_; }
  // Once the container has ended: `done` when nothing of it is in the machine any more.
  void leave(const std::function<void()>& done);
  Agent* agent() override { return agent_.get(); }
  const std::string& vsock_path() const override { return vsock_path_; }
  std::vector<ProcessId> processes() const override { return {}; }
  void stop() override;
  std::string console_tail() const override { return {}; }

 private:
  class RemoteAgent;
  JoinedSandbox(EventLoop& loop, std::string container_id, SandboxCallbacks callbacks);
  // On a connection of its own: the descriptor comes with the request.
  Result<Json> ask_with(int fd, const std::string& method, Json params);
  Result<void> handle_event(const protocol::Event& event);

  EventLoop& loop_;
  std::string container_id_;
  SandboxCallbacks callbacks_;
  std::string control_path_;
  std::string vsock_path_;
  std::string prefix_;
  bool has_drives_ = false;
  std::unique_ptr<RpcClient> rpc_;
  std::unique_ptr<Agent> agent_;
};

}  // namespace kiln::runtime
