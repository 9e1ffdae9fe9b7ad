// SPDX-License-Identifier: Apache-2.0
// A sandbox's network: a network namespace of the host, whose interfaces the machine gets.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "agent/protocol/network.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "runtime/network/interfaces.h"
#include "runtime/network/netlink.h"
#include "runtime/network/tap.h"
#include "vmm/api/vm_config.h"

namespace kiln::runtime {

// Owned by the monitor, on its thread, which is in the namespace from enter() on: the sandbox's
// namespace lives as long as a process is in it, and engines find it by the monitor's pid.
class SandboxNetwork {
 public:
  // How a machine that runs gets another interface, and loses one (`id`: its iface_id). Unset: it
  // has what it was started with.
  struct Plugging {
    std::function<Result<void>(const vmm::NetworkInterfaceConfig&)> attach;
    std::function<void(const std::string& id)> detach;
  };

  // `path`: of the namespace; empty: a new one. Refused when it is the host's, the caller's own.
  static Result<std::unique_ptr<SandboxNetwork>> enter(const std::string& path);
  // A new one that was made for it already.
  static Result<std::unique_ptr<SandboxNetwork>> enter_new(int namespace_fd);
  // Unwires. The thread stays where it is.
  ~SandboxNetwork();
  SandboxNetwork(const SandboxNetwork&) = delete;
  SandboxNetwork& operator=(const SandboxNetwork&) = delete;

  // That of the host, for what must run there.
  int host_namespace() const { return host_namespace_.get(); }

  // Wires what is there, and makes `spare` taps for what comes later. For the machine's start: the
  // descriptors are borrowed until started().
  Result<std::vector<vmm::NetworkInterfaceConfig>> plug_in(unsigned spare);
  void started(Plugging plugging);

  // Wires what has come and unwires what has gone since. True: request() has changed.
  Result<bool> refresh();
  protocol::NetworkRequest request() const { return request_; }
  // After detaching from the guest what request() does not name any more.
  void forget_unplugged();
  // Indices of the wired interfaces, for whoever cleans up after a monitor that was killed.
  std::vector<int> wired() const;

  // Calls `changed` when refresh() may have something to do, a moment after the last change.
  Result<void> watch(EventLoop& loop, std::function<void()> changed);

 private:
  // A network device of the machine.
  struct Device {
    std::string id;
    std::string mac;
    Tap tap;
    int interface = 0;  // that is wired to it; 0: spare
    std::string name;   // of the interface
    bool to_detach = false;
  };

  SandboxNetwork() = default;
  static vmm::NetworkInterfaceConfig config_of(const Device& device);
  Result<Device*> free_device();
  Result<Device> make_device();
  Result<bool> connect(const HostInterface& interface);
  void disconnect(Device& device);
  std::set<int> taps() const;
  Device* device_of(int interface);
  void handle_events();

  UniqueFd host_namespace_;
  NlSocket socket_;
  NlSocket events_;
  EventLoop* loop_ = nullptr;
  bool settling_ = false;
  std::function<void()> changed_;
  Plugging plugging_;
  bool started_ = false;
  std::vector<std::unique_ptr<Device>> devices_;
  unsigned next_device_ = 0;
  protocol::NetworkRequest request_;
  std::set<std::string> refused_;  // interfaces that were warned of
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// After a monitor that was killed: unwires `interfaces` of the namespace at `path`. One that has
// gone is a success. The calling thread comes back to its own namespace.
Result<void> clean_network(const std::string& path, const std::vector<int>& interfaces);

}  // namespace kiln::runtime
