// SPDX-License-Identifier: Apache-2.0
// From a bundle and the configuration file to what create_container takes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/error.h"
#include "oci/spec.h"
#include "runtime/container_create.h"

namespace kiln::runtime {

// Where kiln's things are, and how it uses cgroups.
struct PlanOptions {
  std::string root = "/run/kiln";  // the state directory of all containers
  std::string log;                 // a file; empty: the container's own
  std::string config_path = "/etc/kiln/kiln.yaml";
  bool config_given = false;  // by the user: then it must exist
  bool systemd_cgroup = false;
  std::string rootless = "auto";  // or true, false
};

// What a command asks for beyond the configuration file.
struct MachineWishes {
  std::optional<unsigned> vcpus;
  std::optional<uint64_t> memory_mib;
  std::optional<std::string> backend;  // kvm, qemu, auto
  bool nested = false;
  std::optional<NetworkMode> network;
};

// The path without symlinks; `what` names it in messages. It must exist.
Result<std::string> absolute_path(const std::string& path, const char* what);

// Reads and checks <bundle>/config.json. Warnings are logged.
Result<oci::Spec> load_spec(const std::string& bundle);

// Everything but the console and passed descriptors, for a bundle's spec or one that a command
// made.
Result<NewContainer> prepare_from_spec(const PlanOptions& options, const std::string& id,
                                       const std::string& bundle, oci::Spec spec,
                                       const MachineWishes& wishes);

// container_plan_machine.cpp: fills in plan.vm and the rest that comes from the configuration file.
Result<void> plan_machine(const PlanOptions& options, const MachineWishes& wishes,
                          MonitorPlan& plan);

}  // namespace kiln::runtime
