// SPDX-License-Identifier: Apache-2.0
// /etc/kiln/kiln.yaml. packaging/kiln.yaml documents every key.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "vmm/api/vm_config.h"

namespace kiln::runtime {

// Fields bear the names of the file's keys; what is empty is looked for (runtime/guest/image.h).
struct Config {
  vmm::Backend backend = vmm::Backend::kAuto;
  std::string vmm_binary;  // absolute

  struct Guest {
    std::string directory;    // absolute; with vmlinux and initramfs.cpio
    std::string kernel_args;  // appended to the backend's own
    int64_t boot_timeout_ms = 60'000;
  } guest;

  struct Machine {
    unsigned vcpus = 1;                 // of a container without a CPU quota
    uint64_t memory_mib = 512;          // of a container without a memory limit
    uint64_t memory_overhead_mib = 96;  // on top of a limit: the guest's kernel and agent
    std::optional<unsigned> max_vcpus;
    std::optional<uint64_t> max_memory_mib;
    bool nested = false;
    std::optional<unsigned> spare_drives;  // for containers that join; default: of pods alone
    // From annotations alone: they outrank the container's own quota and limit.
    std::optional<unsigned> wanted_vcpus;
    std::optional<uint64_t> wanted_memory_mib;
  } machine;

  struct Network {
    bool passt = false;  // the host's connectivity by way of pasta
    std::string pasta = "/usr/bin/pasta";
    unsigned spare_interfaces = 2;  // that may be added while a container runs
  } network;

  struct Qemu {
    std::string binary;  // absolute
    std::string accel;   // kvm, tcg or empty: kvm where it is real
  } qemu;

  struct Box {
    uint64_t overlay_size_mib = 0;  // what a box may write; 0: half of the guest's memory
  } box;

  // Of the annotation alone; runtime/forward_list.h reads it. Its paths are the container's.
  std::string vsock_forward;

  // Names behind `io.kiln.` that a container may set.
  std::vector<std::string> allowed_annotations = {"memory", "vcpus"};
};

constexpr unsigned kMaxVcpus = 64;
constexpr unsigned kMaxSpareInterfaces = 8;
constexpr unsigned kMaxSpareDrives = 8;
constexpr unsigned kPodSpareDrives = 4;
constexpr uint64_t kMinGuestMemoryMib = 64;
constexpr uint64_t kMaxGuestMemoryMib = uint64_t{16} << 20;
constexpr const char* kAnnotationPrefix = "io.kiln.";

// Defaults if there is no such file, unless it must exist. Errors name the file and the line.
Result<Config> load_config(const std::string& path, bool must_exist);
// The text of a file; `name` is for messages.
Result<Config> parse_config(const std::string& text, const std::string& name);

// Overrides from a container's annotations `io.kiln.*`; others are none of our business. One that
// is unknown or that the file does not allow is an error. None can name a path of the host.
Result<void> apply_annotations(Config& config,
                               const std::map<std::string, std::string>& annotations);

}  // namespace kiln::runtime
