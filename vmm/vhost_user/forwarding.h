// SPDX-License-Identifier: Apache-2.0
// What of a vhost-user back-end's features and configuration a guest is shown: not all that a
// back-end can do makes sense with the queues that it was given, or without a configuration.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmm/virtio/device.h"

namespace kiln::vmm {

// `offered`: the back-end's virtio features. `has_config`: the guest finds a configuration.
uint64_t forwarded_features(DeviceType type, uint64_t offered, size_t queue_count, bool has_config);

// How many bytes of configuration a device of that type with these features has. Back-ends answer
// with what they have a structure for, and refuse more.
uint32_t vhost_user_config_size(DeviceType type, uint64_t features);

// The numbers of queues in a configuration that came from the back-end, bounded by what there is.
void bound_queue_numbers(DeviceType type, uint64_t features, size_t queue_count,
                         std::span<std::byte> config);

}  // namespace kiln::vmm
