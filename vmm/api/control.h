// SPDX-License-Identifier: Apache-2.0
// What a VM's owner and its `kiln-vmm run` say to each other. One socket pair, frames of 4-byte
// little-endian length + one JSON object.
//   owner → kiln-vmm  the boot document, once; then {"id": 3, "method": "pause"}
//   kiln-vmm → owner  {"id": 0} once the machine runs (0: the boot document), {"id": 3, "result":
//   …}
//                     or {"id": 3, "error": {"kind": 2, "message": "…"}};
//                     {"exit": {"reason": "poweroff", "detail": "…", "console": "…"}} as its last
// Methods: pause, resume, stop, console, metrics.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "vmm/api/vm.h"
#include "vmm/api/vm_config.h"

namespace kiln::vmm {

// Descriptors of `kiln-vmm run`.
constexpr int kVmControlFd = 3;
constexpr int kVmFirstFsFd = 4;
// The console's 64 KiB, each byte of them escaped, fits.
constexpr size_t kMaxControlFrameBytes = 1U << 20;

// In Firecracker's terms: machine-config, boot-source, vsock. A share's descriptor is
// kVmFirstFsFd + its place in the list.
Json boot_document(const VmConfig& config);
// Checks types and ranges; the error names the JSON pointer.
Result<VmConfig> parse_boot_document(const Json& document);

const char* name_of(VmExit::Reason reason);
Result<VmExit::Reason> parse_exit_reason(std::string_view name);

const char* name_of(Backend backend);

}  // namespace kiln::vmm
