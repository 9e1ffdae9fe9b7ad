// SPDX-License-Identifier: Apache-2.0
// A transient scope of systemd's, which makes the container's cgroup (--systemd-cgroup).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/error.h"
#include "runtime/cgroup/bus.h"
#include "runtime/cgroup/cgroup_path.h"
#include "runtime/cgroup/host_limits.h"

namespace kiln::runtime {

struct UnitProperty {
  std::string name;
  std::variant<uint64_t, bool, std::string, std::vector<std::string>, std::vector<uint32_t>,
               std::vector<uint8_t>>
      value;
};

// What systemd itself writes to the cgroup's files: if it did not know of our limits, it would
// reset them when it reloads. Files without a property are left out.
std::vector<UnitProperty> limit_properties(const std::vector<HostLimit>& limits);

// As `a(sv)`.
void write_properties(BusWriter& out, const std::vector<UnitProperty>& properties);

class SystemdScope {
 public:
  // runc's error where no systemd runs. `rootless`: the user's systemd.
  static Result<SystemdScope> connect(bool rootless);

  // The cgroup of systemd itself, below which its units have theirs: "" for the system's.
  Result<std::string> own_cgroup();
  // With that process in it. Waits until it is there.
  Result<void> start(const ScopeName& name, pid_t pid, const std::vector<HostLimit>& limits);
  Result<void> set_limits(const std::string& unit, const std::vector<HostLimit>& limits);
  // No error if there is no such unit.
  Result<void> stop(const std::string& unit);

 private:
  explicit SystemdScope(Bus bus) : bus_(std::move(bus)) {}
  Result<BusMessage> call(const char* member, const char* signature, const BusWriter& body);
  Result<void> wait_for_job(const BusMessage& answer, const std::string& unit);

  Bus bus_;
};

}  // namespace kiln::runtime
