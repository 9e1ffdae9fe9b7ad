// SPDX-License-Identifier: Apache-2.0
#include "runtime/guest_resources.h"

namespace kiln::runtime {

oci::Resources guest_resources(oci::Resources resources) {
  resources.network.reset();
  resources.rdma.clear();
  if (resources.cpu) {
    resources.cpu->cpus.clear();
    resources.cpu->mems.clear();
  }
  if (resources.block_io) {
    resources.block_io->weight_device.clear();
    resources.block_io->throttle_read_bps_device.clear();
    resources.block_io->throttle_write_bps_device.clear();
    resources.block_io->throttle_read_iops_device.clear();
    resources.block_io->throttle_write_iops_device.clear();
  }
  return resources;
}

}  // namespace kiln::runtime
