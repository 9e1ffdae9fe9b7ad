// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace kiln::runtime {

// So many connections must not take the descriptors that commands and streams need. As far as the
// hard limit allows; beyond it connections wait.
void make_room_for_connections(size_t count);

}  // namespace kiln::runtime
