// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace kiln::vmm {

// `kiln-vmm run`: one virtual machine, on behalf of the owner at the other end of kVmControlFd.
// Ends with the machine, or when the owner closes the connection.
int run_main();

}  // namespace kiln::vmm
