// SPDX-License-Identifier: Apache-2.0
// What this host can run, and why not.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/config/config.h"
#include "vmm/api/vm.h"

namespace kiln::runtime {

struct Finding {
  enum class Level { kOk, kWarning, kProblem };  // kProblem: containers cannot run
  Level level = Level::kOk;
  std::string subject;  // one word: kvm, backend, …
  std::string text;
  std::string advice;  // what to do; empty if there is nothing
};

std::string_view level_name(Finding::Level level);

// Where to look; tests have trees of their own.
struct HostPaths {
  std::string dev = "/dev";
  std::string proc = "/proc";
  std::string sys = "/sys";
};

// One finding for each thing that was looked at, in a fixed order.
std::vector<Finding> check_host(const Config& config, const HostPaths& paths = {});

// Parts of it that depend on nothing but their arguments.
Finding check_kernel_release(const std::string& release);
Finding check_kvm(const Result<vmm::BackendChoice>& choice);
Finding check_cgroups(const std::string& mounts);
// `hardware`: KVM runs guests here. `mounts`: /proc/mounts.
Finding check_huge_pages(const std::string& release, bool hardware,
                         const std::string& nx_huge_pages, const std::string& mounts);

}  // namespace kiln::runtime
