// SPDX-License-Identifier: Apache-2.0
// What a VM's owner and its `kiln-vmm run` say to each other. One socket pair, frames of 4-byte
// little-endian length + one JSON object.
//   owner → kiln-vmm  the boot document, once; then {"id": 3, "method": "pause"}
//   kiln-vmm → owner  {"id": 0} once the machine runs (0: the boot document), {"id": 3, "result":
//   …}
//                     or {"id": 3, "error": {"kind": 2, "message": "…"}};
//                     {"exit": {"reason": "poweroff", "detail": "…", "console": "…", "metrics":
//                     {…}}} as its last
// Methods: start (of a machine whose document says "start": false), pause, resume, stop, console,
// metrics, and on the kvm backend attach-drive, attach-network-interface (with the object that the
// boot document would have under "params", and its descriptor attached to the frame's first byte),
// detach ({"id": "…"}), balloon ({"amount_mib": 64}).
#pragma once

#include <string>
#include <string_view>
#include <vector>

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

// In Firecracker's terms: machine-config, boot-source, drives, network-interfaces, vsock, balloon,
// entropy. Descriptors are numbered from kVmFirstFsFd on: the shares', then the drives', then the
// network interfaces', each in the order of its list.
Json boot_document(const VmConfig& config);
Json drive_json(const DriveConfig& drive);
Json network_interface_json(const NetworkInterfaceConfig& interface);
// The borrowed descriptors of `config` in the order in which the document numbers them.
std::vector<int> boot_descriptors(const VmConfig& config);
// Checks types and ranges; the error names the JSON pointer.
Result<VmConfig> parse_boot_document(const Json& document);
// One object of such a list; its descriptor is left at -1.
Result<DriveConfig> parse_drive(const Json& object);
Result<NetworkInterfaceConfig> parse_network_interface(const Json& object);

const char* name_of(VmExit::Reason reason);
Result<VmExit::Reason> parse_exit_reason(std::string_view name);

const char* name_of(Backend backend);

}  // namespace kiln::vmm
