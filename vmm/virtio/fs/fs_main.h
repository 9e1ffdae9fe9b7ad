// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace kiln::vmm {

// `kiln-vmm fs`: the virtio-fs server of one sandbox. Shares come over kFsControlFd, the front-end
// is at the other end of kFsVhostUserFd; it ends when its owner closes the first.
int fs_main();

}  // namespace kiln::vmm
