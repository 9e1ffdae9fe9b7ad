// SPDX-License-Identifier: Apache-2.0
// What a fs server's owner and its `kiln-vmm fs` say to each other, over a SOCK_SEQPACKET pair.
// Each message is one JSON object: {"add": "rootfs", "read_only": false, "cache": "auto"} with the
// file's descriptor attached, or {"remove": "rootfs"}; each is answered by {} or {"error": {"kind":
// 6, "message": "…"}}.
#pragma once

#include <cstddef>

namespace kiln::vmm {

// Descriptors of `kiln-vmm fs`.
constexpr int kFsControlFd = 3;
constexpr int kFsVhostUserFd = 4;
constexpr size_t kMaxFsMessageBytes = 8192;

// In the order of FsCache.
constexpr const char* kFsCacheNames[] = {"none", "auto", "always"};

}  // namespace kiln::vmm
