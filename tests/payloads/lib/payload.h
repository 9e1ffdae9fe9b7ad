// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace payload {

// The program. Interrupts are on; what it returns from is finish().
void run();

}  // namespace payload
