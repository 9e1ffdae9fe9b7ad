// SPDX-License-Identifier: Apache-2.0
// QEMU's command line for a VM of ours.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/error.h"
#include "vmm/api/vm_config.h"

namespace kiln::vmm {

// Descriptors that QEMU is started with: connected sockets.
constexpr int kQmpFd = 3;
constexpr int kSerialFd = 4;
constexpr int kVsockFd = 5;
constexpr int kFirstFsFd = 6;
// The drives' come after the shares'.
inline int drive_fd(const VmConfig& config, size_t index) {
  return kFirstFsFd + static_cast<int>(config.fs.size() + index);
}

inline int tap_fd(const VmConfig& config, size_t index) {
  return drive_fd(config, config.drives.size()) + static_cast<int>(index);
}

// `accel`: "kvm" or "tcg". `tsc_khz`: of this host; used with tcg.
Result<std::vector<std::string>> qemu_arguments(const VmConfig& config, const std::string& accel,
                                                uint64_t tsc_khz);

// The rate of this host's time stamp counter, measured over at least 10 ms since `Sample` was
// taken; waits for what is missing of them.
struct TscSample {
  uint64_t ticks;
  int64_t monotonic_ns;
};
TscSample sample_tsc();
uint64_t tsc_khz_since(const TscSample& start);

}  // namespace kiln::vmm
