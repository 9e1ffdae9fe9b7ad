// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "agent/core/guest.h"
#include "agent/guest/modules.h"
#include "agent/guest/network.h"

namespace kiln::agent {

// The guest that this process is PID 1 of.
class BootedGuest : public Guest {
 public:
  Result<void> adopt(const protocol::SandboxRequest& request) override;
  Result<void> correct_clock(int64_t realtime_ns) override;
  Result<void> configure_network(const protocol::NetworkRequest& request) override;
  Result<std::string> prepare_drive(const protocol::Drive& drive) override;
  Result<void> release_drive(const std::string& id) override;
  Result<void> prepare_device(const oci::Device& device) override;
  Result<pid_t> begin_sync() override;
  Result<void> unmount_share() override;
  Result<UniqueFd> dial(uint32_t port) override;
  void power_off() override;

 private:
  Result<void> mount_share(const std::string& tag);
  OptionalModules modules_;
  GuestNetwork network_{NetworkDevices("/sys")};
  Slots slots_{"/sys"};
  bool share_mounted_ = false;
};

}  // namespace kiln::agent
